"""Draw results: latencies of a case, and accuracy against latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.accuracies import Accuracy
from benchmarks.records import CaseResult
from benchmarks.summary import lines_of, milliseconds, peak_gflop_s
from parnet_deploy.reporting.colours import colour_of
from parnet_deploy.reporting.pictures import Theme, draw_picture, use_log_axis

_WIDTH_INCHES = 8.5
_SMALL = 7.5


def _colour(role: str, theme: Theme) -> str:
    return {"ours": colour_of(0), "peer": colour_of(4)}.get(role, theme.neutral)


def latency_png(cases: Sequence[CaseResult]) -> bytes:
    """Draw each case's contenders as bars, the range of the rounds on them, and the share of the peak beside them."""
    heights = [0.28 * len(lines_of(case)) + 1.0 for case in cases]

    def paint(figure: Any, theme: Theme) -> None:
        ratios = {"height_ratios": heights}
        panels = figure.subplots(len(cases), 1, squeeze=False, gridspec_kw=ratios)[:, 0]
        for axes, case in zip(panels, cases, strict=True):
            _paint_case(axes, case, theme)

    return draw_picture("latency", "latencies", sum(heights), paint, width_inches=_WIDTH_INCHES).light_png


def _paint_case(axes: Any, case: CaseResult, theme: Theme) -> None:
    lines = lines_of(case)[::-1]
    spread = [[line.ms - line.least_ms for line in lines], [line.most_ms - line.ms for line in lines]]
    axes.barh(
        [line.name for line in lines],
        [line.ms for line in lines],
        xerr=spread,
        color=[_colour(line.role, theme) for line in lines],
        ecolor=theme.foreground,
        error_kw={"elinewidth": 1},
    )
    for index, line in enumerate(lines):
        share = "" if line.share_of_peak is None else f", {line.share_of_peak:.0%} of peak"
        axes.text(line.most_ms, index, f"  {milliseconds(line.ms)} ms{share}", va="center", fontsize=_SMALL)
    peak = peak_gflop_s(case)
    peak_text = "" if peak is None else f"; peak {peak:.0f} GFLOP/s"
    axes.set_title(f"{case.network}, batch {case.batch}, {case.pixels} px{peak_text}")
    axes.set_xlim(0, max(line.most_ms for line in lines) * 1.25)
    axes.tick_params(labelsize=_SMALL)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("median latency, ms; bars of error: least and most of the rounds", fontsize=_SMALL)


def accuracy_png(points: Sequence[tuple[Accuracy, str, float]]) -> bytes:
    """Draw published accuracy against measured latency; a point is (accuracy, who ran it, milliseconds)."""

    def paint(figure: Any, theme: Theme) -> None:
        axes = figure.subplots()
        for accuracy, _, ms in points:
            role = "ours" if accuracy.network.startswith("parnet") else "peer"
            axes.scatter([ms], [accuracy.top1], color=_colour(role, theme))
            axes.annotate(
                f"{accuracy.network}\n{accuracy.training}",
                (ms, accuracy.top1),
                textcoords="offset points",
                xytext=(5, -3),
                fontsize=_SMALL,
            )
        use_log_axis(axes.xaxis)
        axes.set(xlabel="median latency, batch 1, ms", ylabel="ImageNet top-1, %, as published")

    return draw_picture("accuracy", "accuracy against latency", 4.5, paint, width_inches=_WIDTH_INCHES).light_png
