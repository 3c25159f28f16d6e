"""Draw results: latencies of a case, and accuracy against latency."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from benchmarks.accuracies import Accuracy
from benchmarks.records import CaseResult
from benchmarks.summary import lines_of, milliseconds, peak_gflop_s
from parnet_deploy.bench.plots import import_matplotlib

_COLOURS = {"ours": "#0072b2", "peer": "#e69f00", "reference": "#999999"}


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def latency_png(cases: Sequence[CaseResult]) -> bytes:
    """Draw each case's contenders as bars, the range of the rounds on them, and the share of the peak beside them."""
    heights = [0.28 * len(lines_of(case)) + 1.0 for case in cases]
    figure = import_matplotlib().Figure(figsize=(9.5, sum(heights)), layout="constrained")
    panels = figure.subplots(len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, case in zip(panels, cases, strict=True):
        lines = lines_of(case)[::-1]
        ms = [line.ms for line in lines]
        spread = [
            [line.ms - line.least_ms for line in lines],
            [line.most_ms - line.ms for line in lines],
        ]
        axes.barh(
            [line.name for line in lines],
            ms,
            xerr=spread,
            color=[_COLOURS[line.role] for line in lines],
            error_kw={"elinewidth": 1},
        )
        for index, line in enumerate(lines):
            share = "" if line.share_of_peak is None else f", {line.share_of_peak:.0%} of peak"
            axes.text(line.most_ms, index, f"  {milliseconds(line.ms)} ms{share}", va="center", fontsize=7)
        peak = peak_gflop_s(case)
        peak_text = "" if peak is None else f"; peak {peak:.0f} GFLOP/s"
        axes.set_title(f"{case.network}, batch {case.batch}, {case.pixels} px{peak_text}", fontsize=9)
        axes.set_xlim(0, max(line.most_ms for line in lines) * 1.25)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("median latency, ms; bars of error: least and most of the rounds", fontsize=7)
    return _png(figure)


def accuracy_png(points: Sequence[tuple[Accuracy, str, float]]) -> bytes:
    """Draw published accuracy against measured latency; a point is (accuracy, who ran it, milliseconds)."""
    figure = import_matplotlib().Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    for accuracy, _, ms in points:
        colour = _COLOURS["ours" if accuracy.network.startswith("parnet") else "peer"]
        axes.scatter([ms], [accuracy.top1], color=colour)
        axes.annotate(
            f"{accuracy.network}\n{accuracy.training}",
            (ms, accuracy.top1),
            textcoords="offset points",
            xytext=(5, -3),
            fontsize=7,
        )
    axes.set(xlabel="median latency, batch 1, ms (log)", ylabel="ImageNet top-1, %, as published", xscale="log")
    axes.grid(alpha=0.3, which="both")
    return _png(figure)
