"""Latencies of all rounds: how they are distributed, and by percentile."""

from __future__ import annotations

from typing import Any

from parnet_deploy.artifacts.report import Contender, Report
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.bench.output.plots.style import Theme, draw_picture, line_of, shown, use_log_axis
from parnet_deploy.bench.statistics import NANOSECONDS_PER_MS, percentile_of_sorted

_BINS = 40
_PERCENTILES = tuple(range(100))
# The axis of the distribution ends here: one slow query in a thousand would press all others into a corner.
_SHOWN_FRACTION = 0.99
# Where the slowest shown is this many times the fastest, a linear axis would hide most of the distribution.
_LOG_AXIS_FROM = 20.0


def distribution_picture(report: Report) -> Picture:
    """Draw which share of the queries took how long."""
    pooled = [_latencies_ms(entry) for entry in report.contenders]
    low = min(values[0] for values in pooled)
    high = max(percentile_of_sorted(values, _SHOWN_FRACTION) for values in pooled)
    is_log = low > 0 and high / low > _LOG_AXIS_FROM
    edges = _bin_edges(low, high, is_log=is_log)
    is_cut = any(values[-1] > edges[-1] for values in pooled)

    def paint(figure: Any, theme: Theme) -> None:
        del theme
        axes = figure.subplots()
        for index, (entry, values) in enumerate(zip(report.contenders, pooled, strict=True)):
            shares = [100.0 / len(values)] * len(values)
            look = {"label": shown(entry.label), "histtype": "step", "linewidth": 1.8, **line_of(index)}
            axes.hist(values, bins=edges, weights=shares, **look)
        if is_log:
            use_log_axis(axes.xaxis)
        xlabel = "latency (ms), without the slowest 1%" if is_cut else "latency (ms)"
        axes.set(title="Distribution of latencies", xlabel=xlabel, ylabel="share of queries (%)")
        axes.legend()

    return draw_picture("distribution", "share of the queries by their latency, for each plan", 3.6, paint)


def percentile_picture(report: Report) -> Picture:
    """Draw the latency that each percentage of the queries kept."""

    def paint(figure: Any, theme: Theme) -> None:
        del theme
        axes = figure.subplots()
        for index, entry in enumerate(report.contenders):
            values = _latencies_ms(entry)
            curve = [percentile_of_sorted(values, percent / 100) for percent in _PERCENTILES]
            axes.plot(_PERCENTILES, curve, label=shown(entry.label), **line_of(index))
        axes.set(title="Latency by percentile", xlabel="percentile (%)", ylabel="latency (ms)", xlim=(0, 100))
        axes.set_xticks([0, 25, 50, 75, 90, 99], labels=["0", "25", "50", "75", "90", "99"])
        axes.legend()

    return draw_picture("percentiles", "latency at each percentile, for each plan", 3.6, paint)


def _latencies_ms(contender: Contender) -> list[float]:
    """Return the latencies of all rounds in milliseconds, ascending."""
    return sorted(value / NANOSECONDS_PER_MS for run in contender.rounds for value in run.latencies_ns)


def _bin_edges(low: float, high: float, *, is_log: bool) -> list[float]:
    """Return the edges of equal bins from `low` to `high`, equal in ratio on a logarithmic axis."""
    if high <= low:
        high = low * 1.01 + 1e-6
    if is_log:
        edges = [low * (high / low) ** (step / _BINS) for step in range(_BINS)]
    else:
        edges = [low + (high - low) * step / _BINS for step in range(_BINS)]
    return [*edges, high]
