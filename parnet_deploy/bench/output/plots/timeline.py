"""What ran when: one inference of each contender, a row for each lane."""

from __future__ import annotations

from typing import Any

from parnet_deploy.artifacts.measurements import StageTiming
from parnet_deploy.artifacts.report import Contender, Report
from parnet_deploy.bench.output.colours import colour_of, letters_on
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.bench.output.plots.style import WIDTH_INCHES, Theme, draw_picture, shown

_ROW_INCHES = 0.34
_HEIGHT = 0.72
# A letter of a bar's name, in inches; a name that does not fit into its bar is left to the table.
_LETTER_INCHES = 0.085


def timeline_picture(report: Report) -> Picture | None:
    """Draw each contender's typical inference on the same scale; None where nothing was profiled."""
    contenders = [entry for entry in report.contenders if entry.timeline]
    if not contenders:
        return None
    order = [entry.label for entry in report.contenders]
    lanes = [len(_lanes(entry)) for entry in contenders]
    end_ms = max(span.end_ms for entry in contenders for span in entry.timeline) or 1e-6

    def paint(figure: Any, theme: Theme) -> None:
        panels = figure.subplots(len(contenders), 1, sharex=True, height_ratios=lanes, squeeze=False)[:, 0]
        for axes, entry in zip(panels, contenders, strict=True):
            _draw_lanes(axes, entry, colour_of(order.index(entry.label)), theme, end_ms)
        panels[-1].set_xlabel("time since the start of the inference (ms)")
        panels[0].set_xlim(0, end_ms * 1.02)
        figure.suptitle("One inference, unloaded", fontsize=11.5, fontweight="bold")

    height = 1.1 + _ROW_INCHES * sum(lanes) + 0.3 * len(contenders)
    description = "when each stage of one inference ran on its lane, and how long it had waited, for each plan"
    return draw_picture("timeline", description, height, paint)


def _lanes(contender: Contender) -> list[str]:
    lanes = {span.lane for span in contender.timeline}
    return [str(lane) for lane in sorted(lanes, key=lambda lane: (lane.device, lane.stream))]


def _draw_lanes(axes: Any, contender: Contender, colour: str, theme: Theme, end_ms: float) -> None:
    lanes = _lanes(contender)
    for span in contender.timeline:
        _draw_span(axes, span, lanes.index(str(span.lane)), colour, theme, end_ms)
    axes.set_yticks(range(len(lanes)), labels=lanes)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_title(shown(contender.label), loc="left", fontsize=10, fontweight="normal", color=theme.foreground)


def _draw_span(axes: Any, span: StageTiming, row: int, colour: str, theme: Theme, end_ms: float) -> None:
    """Draw a stage as a full bar, a copy as a hatched one, and the wait before it as a thin line."""
    if span.wait_ms > 0:
        waited_from = max(0.0, span.start_ms - span.wait_ms)
        axes.plot([waited_from, span.start_ms], [row, row], color=theme.neutral, linewidth=2, linestyle=":")
    axes.barh(
        row,
        span.duration_ms,
        left=span.start_ms,
        height=_HEIGHT,
        color=theme.neutral if span.is_copy else colour,
        hatch="///" if span.is_copy else None,
        edgecolor=theme.background,
        linewidth=1,
    )
    inches = span.duration_ms / end_ms * WIDTH_INCHES * 0.82
    if len(span.stage) * _LETTER_INCHES <= inches:
        middle = span.start_ms + span.duration_ms / 2
        letters = letters_on(theme.neutral if span.is_copy else colour)
        axes.text(middle, row, span.stage, ha="center", va="center", fontsize=9, color=letters)
