"""Draw a report's latencies; the only file that imports matplotlib."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.statistics import NANOSECONDS_PER_MS, percentile_of_sorted
from parnet_deploy.errors import MissingDependencyError

# Okabe and Ito's colours, which colour-blind readers tell apart; line styles separate what colours repeat.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_LINE_STYLES = ("-", "--", "-.", ":")
_BINS = 40
_PERCENTILES = tuple(range(100))
# Where the slowest latency is this many times the fastest, a linear axis would hide most of the distribution.
_LOG_AXIS_FROM = 20.0


def import_matplotlib() -> ModuleType:
    """Import matplotlib's figures; raise `MissingDependencyError` if it is not installed."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise MissingDependencyError(
            f"matplotlib, which draws the report, cannot be imported ({error})",
            remedy='pip install "parnet-deploy[bench]", or leave out -o',
        ) from error
    return matplotlib.figure


def latency_plot_png(report: Report) -> bytes:
    """Draw the distribution of the latencies of all rounds and their percentile curve; return a PNG."""
    # A figure of its own needs neither a display nor pyplot's global state; saving as PNG takes the Agg renderer.
    figure = import_matplotlib().Figure(figsize=(7.0, 8.5), layout="constrained")
    distribution, curve = figure.subplots(2, 1)
    pooled = {
        entry.label: sorted(value / NANOSECONDS_PER_MS for run in entry.rounds for value in run.latencies_ns)
        for entry in report.contenders
    }
    _draw_distribution(distribution, pooled)
    _draw_percentiles(curve, pooled)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _style(index: int) -> dict[str, Any]:
    style = _LINE_STYLES[index // len(_COLOURS) % len(_LINE_STYLES)]
    return {"color": _COLOURS[index % len(_COLOURS)], "linestyle": style, "linewidth": 1.6}


def _text(label: str) -> str:
    """Keep matplotlib from reading a label as a formula, or as one to be left out of the legend."""
    shown = f" {label}" if label.startswith("_") else label
    return shown.replace("$", r"\$")


def _draw_distribution(axes: Any, pooled: dict[str, list[float]]) -> None:
    low = min(values[0] for values in pooled.values())
    high = max(values[-1] for values in pooled.values())
    is_log = low > 0 and high / low > _LOG_AXIS_FROM
    edges = _bin_edges(low, high, is_log=is_log)
    for index, (label, values) in enumerate(pooled.items()):
        weights = [100.0 / len(values)] * len(values)
        axes.hist(values, bins=edges, weights=weights, histtype="step", label=_text(label), **_style(index))
    if is_log:
        axes.set_xscale("log")
    axes.set(title="Distribution of latencies", xlabel="latency (ms)", ylabel="share of answers (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _bin_edges(low: float, high: float, *, is_log: bool) -> list[float]:
    """Return the edges of equal bins from `low` to `high`, equal in ratio on a logarithmic axis."""
    if high <= low:
        high = low * 1.01 + 1e-6
    if is_log:
        edges = [low * (high / low) ** (step / _BINS) for step in range(_BINS)]
    else:
        edges = [low + (high - low) * step / _BINS for step in range(_BINS)]
    return [*edges, high]


def _draw_percentiles(axes: Any, pooled: dict[str, list[float]]) -> None:
    for index, (label, values) in enumerate(pooled.items()):
        curve = [percentile_of_sorted(values, percent / 100) for percent in _PERCENTILES]
        axes.plot(_PERCENTILES, curve, label=_text(label), **_style(index))
    axes.set(title="Latency by percentile", xlabel="percentile", ylabel="latency (ms)", xlim=(0, 100))
    axes.set_ylim(bottom=0)
    axes.set_xticks([0, 25, 50, 75, 90, 99], labels=["0", "25", "50", "75", "90", "99"])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
