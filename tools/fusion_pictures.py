"""`python -m tools.fusion_pictures`: draw each block of ParNet before and after fusion, for docs/fusion.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

IMAGES = Path(__file__).parents[1] / "docs/images"

# What stays as it is, what is folded away, and what folding leaves.
PLAIN, FOLDED, MADE = "#f4f4f4", "#f6d6c5", "#cfe6d2"

Box = tuple[float, float, str, str]  # x, y, label, colour


@dataclass(frozen=True)
class Form:
    """A block in one form: boxes by name, and arrows between them."""

    title: str
    boxes: dict[str, Box]
    arrows: tuple[tuple[str, str], ...]


PICTURES: dict[str, tuple[Form, Form]] = {
    "fusion-repvgg-sse": (
        Form(
            "RepVGG-SSE block, training form",
            {
                "x": (2, 0, "x", PLAIN),
                "c3": (0, 1.5, "3x3 conv", FOLDED),
                "n3": (0, 2.5, "batch norm", FOLDED),
                "c1": (2, 1.5, "1x1 conv", FOLDED),
                "n1": (2, 2.5, "batch norm", FOLDED),
                "nb": (4.4, 1, "batch norm", FOLDED),
                "gap": (5.6, 2, "mean", PLAIN),
                "w": (5.6, 3, "1x1 conv W", PLAIN),
                "s": (5.6, 4, "sigmoid", PLAIN),
                "mul": (4.4, 4.8, "times", PLAIN),
                "add": (2, 5.6, "+", PLAIN),
                "act": (2, 6.5, "activation", PLAIN),
            },
            (
                ("x", "c3"),
                ("x", "c1"),
                ("x", "nb"),
                ("c3", "n3"),
                ("c1", "n1"),
                ("nb", "gap"),
                ("gap", "w"),
                ("w", "s"),
                ("s", "mul"),
                ("nb", "mul"),
                ("n3", "add"),
                ("n1", "add"),
                ("mul", "add"),
                ("add", "act"),
            ),
        ),
        Form(
            "fused",
            {
                "x": (2, 0, "x", PLAIN),
                "c3": (0.6, 2, "3x3 conv K, b", MADE),
                "gap": (5.6, 1, "mean", PLAIN),
                "w": (5.6, 2, "1x1 conv W', c'", MADE),
                "s": (5.6, 3, "sigmoid", PLAIN),
                "mul": (4, 4.4, "x (a s) + c s", MADE),
                "add": (2, 5.6, "+", PLAIN),
                "act": (2, 6.5, "activation", PLAIN),
            },
            (
                ("x", "c3"),
                ("x", "gap"),
                ("gap", "w"),
                ("w", "s"),
                ("s", "mul"),
                ("x", "mul"),
                ("c3", "add"),
                ("mul", "add"),
                ("add", "act"),
            ),
        ),
    ),
    "fusion-downsampling": (
        Form(
            "Downsampling block, training form",
            {
                "x": (2, 0, "x", PLAIN),
                "c3": (0, 2, "3x3 conv, stride 2", FOLDED),
                "n3": (0, 3, "batch norm", FOLDED),
                "p": (2.6, 1, "average pool 2x2", FOLDED),
                "c1": (2.6, 2, "1x1 conv", FOLDED),
                "n1": (2.6, 3, "batch norm", FOLDED),
                "gap": (5.4, 1, "mean", PLAIN),
                "w": (5.4, 2, "1x1 conv W", PLAIN),
                "s": (5.4, 3, "2 · sigmoid", FOLDED),
                "add": (1.4, 4, "+", PLAIN),
                "mul": (2.6, 5, "times", PLAIN),
                "act": (2.6, 6, "activation", PLAIN),
            },
            (
                ("x", "c3"),
                ("x", "p"),
                ("x", "gap"),
                ("c3", "n3"),
                ("p", "c1"),
                ("c1", "n1"),
                ("gap", "w"),
                ("w", "s"),
                ("n3", "add"),
                ("n1", "add"),
                ("add", "mul"),
                ("s", "mul"),
                ("mul", "act"),
            ),
        ),
        Form(
            "fused",
            {
                "x": (2, 0, "x", PLAIN),
                "c3": (1, 2.5, "3x3 conv 2K, 2b, stride 2", MADE),
                "gap": (5.4, 1, "mean", PLAIN),
                "w": (5.4, 2, "1x1 conv W", PLAIN),
                "s": (5.4, 3, "sigmoid", PLAIN),
                "mul": (2.6, 5, "times", PLAIN),
                "act": (2.6, 6, "activation", PLAIN),
            },
            (("x", "c3"), ("x", "gap"), ("gap", "w"), ("w", "s"), ("c3", "mul"), ("s", "mul"), ("mul", "act")),
        ),
    ),
    "fusion-fusion": (
        Form(
            "Fusion block, training form",
            {
                "a": (0.4, 0, "stream a", PLAIN),
                "b": (3.6, 0, "finer b", PLAIN),
                "na": (0.4, 1, "batch norm", FOLDED),
                "nb": (3.6, 1, "batch norm", FOLDED),
                "cat": (2, 2, "interleave a0 b0 a1 b1 ..", FOLDED),
                "conv": (1, 3.2, "conv branches, 2 groups", FOLDED),
                "gate": (5, 3.2, "2 · sigmoid(W mean), 2 groups", FOLDED),
                "mul": (2, 4.3, "times", PLAIN),
                "act": (2, 5.2, "activation", PLAIN),
                "sh": (2, 6.1, "shuffle channels", FOLDED),
            },
            (
                ("a", "na"),
                ("b", "nb"),
                ("na", "cat"),
                ("nb", "cat"),
                ("cat", "conv"),
                ("cat", "gate"),
                ("conv", "mul"),
                ("gate", "mul"),
                ("mul", "act"),
                ("act", "sh"),
            ),
        ),
        Form(
            "fused",
            {
                "a": (0.4, 0, "stream a", PLAIN),
                "b": (4.6, 0, "finer b", PLAIN),
                "ca": (-0.4, 1.8, "conv a", MADE),
                "ga": (1.4, 1.8, "gate a", MADE),
                "cb": (4, 1.8, "conv b", MADE),
                "gb": (5.8, 1.8, "gate b", MADE),
                "bias": (0.4, 3.2, "+ bias of each pixel", MADE),
                "gate": (5, 3.2, "sigmoid(a + b + bias)", MADE),
                "mul": (2.6, 4.5, "times", PLAIN),
                "act": (2.6, 5.6, "activation", PLAIN),
            },
            (
                ("a", "ca"),
                ("a", "ga"),
                ("b", "cb"),
                ("b", "gb"),
                ("ca", "bias"),
                ("cb", "bias"),
                ("ga", "gate"),
                ("gb", "gate"),
                ("bias", "mul"),
                ("gate", "mul"),
                ("mul", "act"),
            ),
        ),
    ),
}


def draw(axes: Axes, form: Form) -> None:
    """Draw a form from top to bottom."""
    for source, target in form.arrows:
        (x0, y0, *_), (x1, y1, *_) = form.boxes[source], form.boxes[target]
        axes.annotate(
            "",
            (x1, -y1 + 0.28),
            (x0, -y0 - 0.26),
            arrowprops={"arrowstyle": "-|>", "color": "#777777", "shrinkA": 0, "shrinkB": 0, "linewidth": 0.9},
        )
    for x, y, label, colour in form.boxes.values():
        style = {"boxstyle": "round,pad=0.35", "facecolor": colour, "edgecolor": "#888888", "linewidth": 0.8}
        axes.text(x, -y, label, ha="center", va="center", fontsize=8.5, bbox=style)
    axes.set(xlim=(-1.6, 7.2), ylim=(-7, 0.7), title=form.title)
    axes.set_axis_off()


def main() -> None:
    """Write every picture."""
    # Text stays text, and the same code gives the same bytes.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "parnet-deploy", "font.family": "sans-serif"})
    IMAGES.mkdir(exist_ok=True)
    for name, forms in PICTURES.items():
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        for axes, form in zip(figure.subplots(1, 2), forms, strict=True):
            draw(axes, form)
        figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
