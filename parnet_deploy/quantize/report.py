"""Write what was measured of each layer and tensor beside the bundle: `quantization.json` and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.quantization import LayerKind, LayerSensitivity, QuantizationReport, TensorRange
from parnet_deploy.artifacts.schemas import FileRecord
from parnet_deploy.quantize.choose import Choice
from parnet_deploy.reporting.colours import colour_of
from parnet_deploy.reporting.document import Picture
from parnet_deploy.reporting.pictures import WIDTH_INCHES, Theme, draw_picture, shown

REPORT_NAME = "quantization.json"
PICTURE_NAME = "sensitivity.png"

_INCHES_PER_LAYER = 0.22
_DESCRIPTION = "signal to noise of the logits with each layer quantised alone, a bar for each, and with all of them"
_KINDS: tuple[LayerKind, ...] = ("convolution", "gate", "linear")


def write_report(
    folder: Path,
    *,
    name: str,
    choice: Choice,
    layers: tuple[LayerSensitivity, ...],
    tensors: tuple[str, ...],
) -> tuple[FileRecord, FileRecord]:
    """Write the report and the picture; return their records."""
    report = QuantizationReport(
        name=name,
        methods=choice.scores,
        layers=layers,
        tensors=tuple(_describe(tensor, choice) for tensor in tensors),
        sqnr_db=choice.sqnr_db,
        sqnr_db_without_bias_correction=choice.sqnr_db_without_correction,
    )
    write_manifest(folder / REPORT_NAME, report)
    (folder / PICTURE_NAME).write_bytes(sensitivity_picture(report).light_png)
    return FileRecord.of(folder / REPORT_NAME), FileRecord.of(folder / PICTURE_NAME)


def _describe(name: str, choice: Choice) -> TensorRange:
    steps = choice.recipe.steps[name]
    return TensorRange(
        name=name,
        seen=choice.seen[name],
        chosen=choice.ranges[name],
        scale=float(steps.scale),
        zero_point=steps.zero_point,
    )


def sensitivity_picture(report: QuantizationReport) -> Picture:
    """Draw a bar for each layer, in the order of the graph: how far the logits' change lies below them, in dB.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    width = max(WIDTH_INCHES, 1.5 + _INCHES_PER_LAYER * len(report.layers))
    name = PICTURE_NAME.removesuffix(".png")
    return draw_picture(
        name, _DESCRIPTION, 4.8, lambda figure, theme: _paint(figure, theme, report), width_inches=width
    )


def _paint(figure: Any, theme: Theme, report: QuantizationReport) -> None:
    count = len(report.layers)
    axes = figure.subplots()
    for index, kind in enumerate(_KINDS):
        places = [place for place, layer in enumerate(report.layers) if layer.kind == kind]
        heights = [report.layers[place].sqnr_db for place in places]
        axes.bar(places, heights, color=colour_of(index), label=kind)
    left = [place for place, layer in enumerate(report.layers) if layer.is_float]
    if left:
        heights = [report.layers[place].sqnr_db for place in left]
        axes.bar(left, heights, facecolor="none", edgecolor=theme.foreground, hatch="///", label="left in float")
    axes.axhline(report.sqnr_db, color=theme.foreground, linestyle="--", linewidth=1, label="all layers together")
    axes.set_title(f"{shown(report.name)}, layers quantised one by one")
    axes.set(ylabel="signal to noise of the logits (dB)", xlim=(-0.8, count - 0.2))
    axes.set_xticks(range(count), [layer.name for layer in report.layers], rotation=90, fontsize=7)
    axes.grid(visible=False, axis="x")
    figure.legend(ncols=min(5, max(2, count // 6)), loc="outside lower center")
