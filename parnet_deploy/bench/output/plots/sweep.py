"""Throughput against latency, over how many clients send at once and how much they send."""

from __future__ import annotations

from typing import Any

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.bench.output.plots.style import Theme, draw_picture, line_of, shown, use_log_axis

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def sweep_picture(report: Report) -> Picture | None:
    """Draw a line over the concurrencies for each contender and batch size; None without a sweep."""
    batches = sorted({point.batch for entry in report.contenders for point in entry.sweep})
    if not batches:
        return None

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        for index, entry in enumerate(report.contenders):
            for batch in batches:
                points = sorted((p for p in entry.sweep if p.batch == batch), key=lambda point: point.concurrency)
                rates = [point.samples_per_second for point in points]
                latencies = [point.latency.p50_ms for point in points]
                axes.plot(rates, latencies, marker=_marker(batches, batch), markersize=6, **line_of(index))
                for point, x, y in zip(points, rates, latencies, strict=True):
                    offset = {"xytext": (5, 4), "textcoords": "offset points", "fontsize": 8}
                    axes.annotate(str(point.concurrency), (x, y), color=theme.foreground, **offset)
        use_log_axis(axes.xaxis)
        use_log_axis(axes.yaxis)
        axes.set(
            title="Throughput against latency",
            xlabel="samples per second",
            ylabel="median latency of a batch (ms)\n(numbers: clients at once)",
        )
        for index, entry in enumerate(report.contenders):
            axes.plot([], [], label=shown(entry.label), **line_of(index))
        for batch in batches:
            look = {"marker": _marker(batches, batch), "linestyle": "none", "color": theme.neutral}
            axes.plot([], [], label=f"batch {batch}", **look)
        figure.legend(loc="outside lower center", ncols=2)

    rows = (len(report.contenders) + len(batches) + 1) // 2
    description = "samples per second against the median latency, for each plan, batch size and number of clients"
    return draw_picture("throughput", description, 3.8 + 0.24 * rows, paint)


def _marker(batches: list[int], batch: int) -> str:
    return _MARKERS[batches.index(batch) % len(_MARKERS)]
