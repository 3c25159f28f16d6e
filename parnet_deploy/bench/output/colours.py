"""One colour per contender, the same in every picture and table."""

from __future__ import annotations

# Okabe and Ito's colours, which colour-blind readers tell apart, without black: it would vanish on a dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
LINE_STYLES = ("-", "--", "-.", ":")


def colour_of(index: int) -> str:
    """Return the colour of the `index`-th contender; after seven they repeat."""
    return COLOURS[index % len(COLOURS)]


def line_style_of(index: int) -> str:
    """Return a line style that tells contenders of the same colour apart."""
    return LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)]


def letters_on(colour: str) -> str:
    """Return black or white, whichever stands out on a colour (relative luminance of WCAG 2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    luminance = sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "#000000" if luminance > 0.18 else "#ffffff"
