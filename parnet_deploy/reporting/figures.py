"""How figures are drawn: colours that colour-blind readers tell apart, and no display."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

from parnet_deploy.errors import MissingDependencyError

# Okabe and Ito's palette; markers and line styles say the same without colour.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_STYLES = ("-", "--", "-.", ":")


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


def line_style(index: int) -> dict[str, Any]:
    """Return how the line of a given index is drawn."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINE_STYLES[index % len(LINE_STYLES)],
        "linewidth": 1.6,
        "markersize": 5,
    }


def plain_label(label: str) -> str:
    """Keep matplotlib from reading a label as a formula, or as one to be left out of the legend."""
    shown = f" {label}" if label.startswith("_") else label
    return shown.replace("$", r"\$")


def png_of(figure: Any) -> bytes:
    """Return a figure as a PNG, without the version of what drew it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
