"""`parnet-deploy export`: a checkpoint becomes a bundle of ONNX files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parnet_deploy.artifacts.limits import MAX_BATCH, MAX_SIDE
from parnet_deploy.cli.common import (
    CheckpointArgument,
    ForceOption,
    JsonOption,
    describe,
    emit,
    format_bytes,
    spinner,
)
from parnet_deploy.cli.names import PARTITIONS, complete
from parnet_deploy.errors import ExportError

if TYPE_CHECKING:
    from parnet_deploy.artifacts.schemas import BatchRange


class PrecisionName(StrEnum):
    """Precisions that a bundle can be exported in."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


def export(
    checkpoint: CheckpointArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Bundle folder to write.")],
    split_streams: Annotated[
        bool, typer.Option("--split-streams", help="One file per stream and one for the join: --partition streams.")
    ] = False,
    partition: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            autocompletion=complete(PARTITIONS),
            help=f"Where the graph is cut: {', '.join(PARTITIONS)}; default: whole.",
        ),
    ] = None,
    precision: Annotated[PrecisionName, typer.Option(help="Decided in the file.")] = PrecisionName.fp32,
    batch: Annotated[int | None, typer.Option(min=1, max=MAX_BATCH, help="Fixed batch size; default: 1.")] = None,
    dynamic_batch: Annotated[
        str | None, typer.Option(metavar="MIN:OPT:MAX", help="A range of batch sizes instead of a fixed one.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(min=1, max=MAX_SIDE, help="Input size in pixels; default: the card's.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Export a checkpoint to ONNX: one clean graph, whole or cut by stream, compared with torch stage by stage.

    Example: parnet-deploy export parnet_l_fused.safetensors -o bundle --split-streams
    """
    if split_streams and partition not in (None, "streams"):
        raise ExportError("--split-streams and --partition disagree", remedy="pass one of them")
    from parnet_deploy.artifacts.schemas import BatchRange
    from parnet_deploy.export import ExportOptions, export_bundle

    sizes = BatchRange(min=batch or 1, opt=batch or 1, max=batch or 1)
    if dynamic_batch is not None:
        if batch is not None:
            raise ExportError("--batch and --dynamic-batch exclude each other", remedy="pass one of them")
        sizes = parse_batch_range(dynamic_batch)
    options = ExportOptions(
        partition="streams" if split_streams else ("whole" if partition is None else partition),
        precision=precision.value,
        batch=sizes,
        resolution=resolution,
    )
    with spinner("reading the checkpoint") as progress:
        bundle = export_bundle(checkpoint, output, options, force=force, progress=lambda step: describe(progress, step))
    from rich.console import Group, RenderableType
    from rich.table import Table

    table = Table("stage", "inputs", "outputs", "nodes", "file size", "difference", box=None)
    for stage in bundle.stages:
        worst = max(bundle.parity[name].relative for name in stage.outputs)
        table.add_row(
            stage.name,
            " ".join(stage.inputs),
            " ".join(stage.outputs),
            str(sum(stage.node_counts.values())),
            format_bytes(stage.file.size_bytes),
            f"{worst:.1e}",
        )
    notes = f"{output}: {bundle.name} {bundle.form}, partition {bundle.partition}, {bundle.precision}"
    counts = ", ".join(f"{n} {op}" for stage in bundle.stages[:1] for op, n in stage.node_counts.items())
    parts: list[RenderableType] = [notes, table, *([f"nodes: {counts}"] if len(bundle.stages) == 1 else [])]
    if bundle.float32_islands:
        parts.append(f"kept in float32: {', '.join(bundle.float32_islands)}")
    emit(bundle.model_dump(mode="json"), Group(*parts), as_json=as_json)


def parse_batch_range(text: str) -> BatchRange:
    """Parse MIN:OPT:MAX; raise `ExportError` on anything else."""
    from parnet_deploy.artifacts.schemas import BatchRange

    try:
        low, opt, high = (int(part) for part in text.split(":"))
        return BatchRange(min=low, opt=opt, max=high)
    except ValueError as error:
        raise ExportError(
            f"--dynamic-batch {text!r} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX", remedy="for example 1:4:8"
        ) from error
