"""`parnet-deploy quantize`: a float32 bundle becomes an int8 or float8 one, if it is as accurate."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parnet_deploy.artifacts.limits import MAX_IMAGES
from parnet_deploy.cli.common import ForceOption, JsonOption, emit, finite, format_bytes, progress_bar
from parnet_deploy.cli.names import PARTITIONS, complete

if TYPE_CHECKING:
    from rich.console import RenderableType

    from parnet_deploy.artifacts.schemas import Bundle


class TargetName(StrEnum):
    """What the bundle is quantised for."""

    cpu = "cpu"
    openvino = "openvino"
    tensorrt = "tensorrt"


class QuantizedName(StrEnum):
    """Precisions that are quantised to."""

    int8 = "int8"
    fp8 = "fp8"


class FloatPrecisionName(StrEnum):
    """Precisions of what is not quantised."""

    fp32 = "fp32"
    fp16 = "fp16"


class MethodName(StrEnum):
    """How the ranges of tensors are calibrated."""

    min_max = "min-max"
    percentile = "percentile"
    mse = "mse"
    entropy = "entropy"


def quantize(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder: fused, float32, any partition.", show_default=False)],
    data: Annotated[
        str, typer.Option(help="'digits', a folder of images per class, or a folder of images.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle folder to write.")],
    target: Annotated[
        TargetName, typer.Option(help="cpu: ONNX Runtime and OpenVINO; openvino: faster there, slow elsewhere.")
    ] = TargetName.cpu,
    precision: Annotated[QuantizedName, typer.Option(help="fp8 for TensorRT only.")] = QuantizedName.int8,
    weight_bits: Annotated[
        int, typer.Option(min=7, max=8, help="7: no sum saturates on processors without VNNI; a little less accurate.")
    ] = 8,
    max_drop: Annotated[
        float,
        typer.Option(
            min=-100,
            max=100,
            callback=finite,
            metavar="POINTS",
            help="Top-1 accuracy that may be lost; without labels, agreement.",
        ),
    ] = 0.5,
    max_float_share: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, callback=finite, help="Share of the operations that may stay in float to hold the gate."
        ),
    ] = 0.2,
    images: Annotated[
        int, typer.Option(min=1, max=MAX_IMAGES, help="Images to calibrate on; a quarter as many more choose.")
    ] = 256,
    method: Annotated[
        MethodName | None, typer.Option(help="Default: the one of least error.", show_default=False)
    ] = None,
    float_precision: Annotated[
        FloatPrecisionName | None,
        typer.Option(help="What is not quantised; default: fp16 for tensorrt, else fp32.", show_default=False),
    ] = None,
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete(PARTITIONS),
            help=f"Cut anew: {', '.join(PARTITIONS)}; default: the bundle's.",
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Quantise a bundle, and refuse to write one that loses accuracy; exit 1 then.

    Example: parnet-deploy quantize bundle --data digits -o bundle_int8
    """
    from parnet_deploy.quantize import QuantizeOptions, quantize_bundle

    options = QuantizeOptions(
        target=target.value,
        precision=precision.value,
        weight_bits=7 if weight_bits == 7 else 8,
        float_precision=float_precision.value if float_precision else None,
        method=method.value if method else None,
        images=images,
        max_drop=max_drop,
        max_float_share=max_float_share,
        partition=partition,
    )
    with progress_bar("reading the bundle", 1) as bar:

        def phases(text: str, total: int) -> Callable[[int], None]:
            bar.reset(bar.task_ids[0], description=text, total=total)
            return lambda done: bar.advance(bar.task_ids[0], done)

        made = quantize_bundle(bundle, data, output, options, force=force, phases=phases)
    emit(made.model_dump(mode="json"), _rendered(bundle, output, made), as_json=as_json)


def _rendered(bundle: Path, output: Path, made: Bundle) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    from parnet_deploy.artifacts.folders import open_bundle

    record = made.quantization
    assert record is not None
    assert record.gate is not None
    gate = record.gate
    before = open_bundle(bundle).manifest
    table = Table("precision", f"top-1 {gate.criterion}", "drop", "95% interval", "layers in float", "size", box=None)
    table.add_row(before.precision, f"{gate.before:.2f}%", "", "", "", _size(before))
    table.add_row(
        made.precision,
        f"{gate.after:.2f}%",
        f"{gate.drop:.2f}",
        f"{gate.interval[0]:.2f} to {gate.interval[1]:.2f}",
        f"{len(record.float_layers)} of {record.layers} ({record.float_share:.0%} of the operations)",
        _size(made),
    )
    correction = "corrected biases" if record.bias_correction else "biases as they were"
    bits = "" if record.weight_bits == 8 else f", weights of {record.weight_bits} bits"
    lines: list[RenderableType] = [
        f"{output}: {made.name} {made.precision} for {record.target}{bits}, the rest in {record.float_precision}, "
        f"partition {made.partition}",
        f"calibrated by {record.method} on {record.calibration.count} images, {correction}",
        table,
        f"{gate.images.count} images ({gate.images.source}): {gate.broken} broken, {gate.mended} mended; one image is "
        f"{gate.resolution:.2f} points, at most {gate.max_drop:g} may be lost",
    ]
    if record.float_layers:
        lines.append(f"left in {record.float_precision}: {', '.join(record.float_layers)}")
    lines.append(f"each layer's error: {output / 'quantization.json'}, {output / 'sensitivity.png'}")
    return Group(*lines)


def _size(bundle: Bundle) -> str:
    return format_bytes(sum(stage.file.size_bytes for stage in bundle.stages))
