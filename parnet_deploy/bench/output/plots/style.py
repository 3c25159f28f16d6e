"""How every picture looks; the only file that imports matplotlib.

Pictures are narrow and their letters large, so that they can be read on a phone, where a page is 390 pixels wide.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from parnet_deploy.bench.output.colours import colour_of, line_style_of
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.errors import MissingDependencyError

WIDTH_INCHES = 5.2
_DPI = 180
_LONGEST_LABEL = 32


@dataclass(frozen=True)
class Theme:
    """The colours of a page that do not stand for a contender."""

    background: str
    foreground: str
    grid: str
    neutral: str


LIGHT = Theme(background="#ffffff", foreground="#1c1e21", grid="#d9dce0", neutral="#9aa0a6")
DARK = Theme(background="#1b1d21", foreground="#e4e6ea", grid="#3d4148", neutral="#80868d")

# Draws into an empty matplotlib figure.
Paint = Callable[[Any, Theme], None]


def import_matplotlib() -> ModuleType:
    """Import matplotlib with its figures and tickers; raise `MissingDependencyError` if it is not installed."""
    try:
        import matplotlib.figure
        import matplotlib.ticker
    except ImportError as error:
        raise MissingDependencyError(
            f"matplotlib, which draws the report, cannot be imported ({error})",
            remedy='pip install "parnet-deploy[bench]", or leave out -o',
        ) from error
    return matplotlib


def draw_picture(name: str, description: str, height_inches: float, paint: Paint) -> Picture:
    """Draw a picture in both themes."""
    light, dark = (_png(height_inches, paint, theme) for theme in (LIGHT, DARK))
    return Picture(name=f"{name}.png", description=description, light_png=light, dark_png=dark)


def _png(height_inches: float, paint: Paint, theme: Theme) -> bytes:
    matplotlib = import_matplotlib()
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_settings(theme)}):
        # A figure of its own needs neither a display nor pyplot's global state; saving as PNG takes the Agg renderer.
        figure = matplotlib.figure.Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        paint(figure, theme)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _settings(theme: Theme) -> dict[str, Any]:
    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor")
    return {
        **dict.fromkeys(names, theme.foreground),
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "legend.facecolor": theme.background,
        "legend.edgecolor": theme.grid,
        "grid.color": theme.grid,
        "hatch.color": theme.background,
        "hatch.linewidth": 1.2,
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "legend.fontsize": 9.5,
        "lines.linewidth": 1.8,
        "figure.constrained_layout.h_pad": 0.1,
        "figure.constrained_layout.w_pad": 0.08,
        # A label is never a formula.
        "text.parse_math": False,
    }


def line_of(index: int) -> dict[str, Any]:
    """Return how the lines of the `index`-th contender look."""
    return {"color": colour_of(index), "linestyle": line_style_of(index)}


def use_log_axis(axis: Any) -> None:
    """Put an axis on a logarithmic scale with plain numbers at 1, 2 and 5 times each power of ten."""
    ticker = import_matplotlib().ticker
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())


def shown(label: str) -> str:
    """Shorten a label from its front, and keep matplotlib from leaving one that begins with `_` out of the legend."""
    short = label if len(label) <= _LONGEST_LABEL else f"…{label[1 - _LONGEST_LABEL :]}"
    return f" {short}" if short.startswith("_") else short
