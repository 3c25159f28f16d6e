"""Draw how the difference grows from the image to the logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from parnet_deploy.artifacts.verification import LayerDifference, Verification
from parnet_deploy.checks.departure import short
from parnet_deploy.checks.tables import comparison_title
from parnet_deploy.reporting.document import Picture
from parnet_deploy.reporting.pictures import WIDTH_INCHES, Theme, draw_picture, line_of, shown

_DESCRIPTION = "difference of every layer on a logarithmic scale, one line per set of images, with the tolerance"
_INCHES_PER_LAYER = 0.3
_MARKERS = ("o", "s", "^", "D")
# Nothing smaller is drawn: no difference at all has no place on a logarithmic axis, and is drawn at its lower end.
_LOWEST = 1e-9


def differences_picture(verification: Verification) -> Picture:
    """Draw every layer's difference in topological order, one line per set of images.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    width = max(WIDTH_INCHES, 2.0 + _INCHES_PER_LAYER * len(verification.comparisons[0].layers))

    def paint(figure: Any, theme: Theme) -> None:
        _paint(figure.subplots(), theme, verification)

    return draw_picture("differences", _DESCRIPTION, 4.8, paint, width_inches=width)


def _paint(axes: Any, theme: Theme, verification: Verification) -> None:
    layers = verification.comparisons[0].layers
    groups = _groups(layers)
    _shade(axes, theme, groups)
    highest = _highest(verification)
    for index, comparison in enumerate(verification.comparisons):
        heights = [_height(layer, highest) for layer in comparison.layers]
        for number, (_, start, end) in enumerate(groups):
            # Parts run side by side: the last layer of one is not read by the first of the next.
            label = "" if number else shown(comparison_title(comparison))
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot(range(start, end), heights[start:end], label=label, marker=marker, **line_of(index))
    _mark_extremes(axes, theme, verification, highest)
    _draw_tolerance(axes, theme, layers)
    _mark_departure(axes, theme, verification)
    axes.set_yscale("log")
    axes.set_ylim(_LOWEST / 2, highest * 3)
    axes.set_xlim(-0.6, len(layers) - 0.4)
    axes.set_xticks(range(len(layers)), labels=[layer.name for layer in layers], rotation=90, fontsize="small")
    axes.set_ylabel("relative difference")
    axes.set_xlabel("layer, in order of computation")
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper left", fontsize="small")


def _highest(verification: Verification) -> float:
    sizes = [layer.size for comparison in verification.comparisons for layer in comparison.layers]
    allowed = [layer.tolerance for layer in verification.comparisons[0].layers if layer.tolerance]
    # Room above for the legend.
    return 30 * max([size for size in sizes if math.isfinite(size)] + allowed + [1e-6])


def _mark_extremes(axes: Any, theme: Theme, verification: Verification, highest: float) -> None:
    """Mark what has no place on a logarithmic axis: layers that do not differ, and such as are not finite."""
    marks: tuple[tuple[str, float, Callable[[float], bool], dict[str, Any]], ...] = (
        ("no difference", _LOWEST, lambda size: size == 0, {"marker": "o", "markerfacecolor": theme.background}),
        ("not finite", highest, math.isinf, {"marker": "x", "markersize": 10}),
    )
    for label, height, is_extreme, style in marks:
        positions = [
            position
            for comparison in verification.comparisons
            for position, layer in enumerate(comparison.layers)
            if is_extreme(layer.size)
        ]
        if positions:
            heights = [height] * len(positions)
            axes.plot(positions, heights, linestyle="", color=theme.foreground, zorder=3, label=label, **style)


def _height(layer: LayerDifference, highest: float) -> float:
    return min(max(layer.size, _LOWEST), highest)


def _group_of(layer: LayerDifference) -> str:
    """Return the part of the network that a layer lies in: the stem with the levels, a stream, or the join."""
    name = layer.blocks[-1].split(".")[0]
    if name.startswith("stream"):
        return name
    return "stem" if name.startswith(("stem", "level")) else "join"


def _groups(layers: tuple[LayerDifference, ...]) -> list[tuple[str, int, int]]:
    """Return the parts of the network in order: name, position of the first layer, and that after the last."""
    names = [_group_of(layer) for layer in layers]
    starts = [position for position, name in enumerate(names) if position == 0 or name != names[position - 1]]
    return [(names[start], start, end) for start, end in zip(starts, [*starts[1:], len(names)], strict=True)]


def _shade(axes: Any, theme: Theme, groups: list[tuple[str, int, int]]) -> None:
    """Shade every other part and name each above it."""
    for index, (name, start, end) in enumerate(groups):
        if index % 2 == 0:
            axes.axvspan(start - 0.5, end - 0.5, color=theme.foreground, alpha=0.06, linewidth=0)
        middle = (start + end - 1) / 2
        axes.text(middle, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", fontsize="small")


def _draw_tolerance(axes: Any, theme: Theme, layers: tuple[LayerDifference, ...]) -> None:
    allowed = [layer.tolerance for layer in layers]
    if any(value for value in allowed):
        heights = [value if value else math.nan for value in allowed]
        look = {"color": theme.foreground, "linestyle": ":", "linewidth": 1.4}
        axes.step(range(len(layers)), heights, where="mid", label="tolerance", **look)


def _mark_departure(axes: Any, theme: Theme, verification: Verification) -> None:
    """Circle the first layer that departs on any set of images, and say how far."""
    names = [layer.name for layer in verification.comparisons[0].layers]
    for comparison in verification.comparisons:
        departure = comparison.departure
        if departure is not None:
            position = names.index(departure.layer)
            height = min(departure.size, _highest(verification))
            circle = {"marker": "o", "markersize": 16, "markerfacecolor": "none"}
            axes.plot([position], [height], linestyle="", color=theme.foreground, **circle)
            axes.annotate(
                f"{departure.layer}: {'not finite' if math.isinf(departure.size) else short(departure.size)}",
                (position, height),
                textcoords="offset points",
                xytext=(-12, 8),
                ha="right",
                fontsize="small",
                fontweight="bold",
            )
            return
