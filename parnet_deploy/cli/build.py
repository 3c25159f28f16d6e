"""`parnet-deploy build`: a bundle becomes a plan of engines for this machine, or for GPUs elsewhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parnet_deploy.artifacts.limits import MAX_MEBIBYTES, MAX_THREADS
from parnet_deploy.cli.common import ForceOption, JsonOption, describe, emit, finite, format_bytes, spinner, stderr
from parnet_deploy.cli.names import BACKENDS, complete

if TYPE_CHECKING:
    from rich.table import Table

    from parnet_deploy.artifacts.schemas import Plan


class FlavourName(StrEnum):
    """The full TensorRT, or TensorRT for RTX."""

    tensorrt = "tensorrt"
    rtx = "rtx"


class CompatibilityName(StrEnum):
    """Which other GPUs an engine of the full TensorRT shall run on."""

    ampere_plus = "ampere-plus"
    same_compute_capability = "same-compute-capability"


_TENSORRT = "TensorRT"


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Plan folder to write.")],
    backend: Annotated[
        str,
        typer.Option(
            autocompletion=complete(BACKENDS),
            help="CPU: onnxruntime, ncnn, openvino. GPUs: tensorrt, onnxruntime-cuda. Either: torch. Harness: null.",
        ),
    ] = "onnxruntime",
    threads: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_THREADS, help="Cores that the plan may use; default: all that this process has."),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="0,1,2", help="GPUs, a lane on each; default: a stream of cuda:0 for each branch."),
    ] = None,
    placement: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Where stages run: {"STAGE": "cuda:0/0"}, or what `plan --json` printed.'),
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let GPUs round float32 to TF32.")] = False,
    memory_factor: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=4,
            callback=finite,
            metavar="TIMES",
            help="ncnn: memory of loaded weights in times of their file; more is faster. Default: 1.65.",
        ),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            metavar="86,89,120",
            help="Build for these GPUs without having one (TensorRT for RTX).",
            rich_help_panel=_TENSORRT,
        ),
    ] = None,
    trt_flavour: Annotated[
        FlavourName | None, typer.Option(help="Default: what is installed.", rich_help_panel=_TENSORRT)
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_MEBIBYTES,
            metavar="MIB",
            help="Scratch memory of an engine in MiB.",
            rich_help_panel=_TENSORRT,
        ),
    ] = None,
    optimization_level: Annotated[
        int | None, typer.Option(min=0, max=5, help="How long to search; default: 3.", rich_help_panel=_TENSORRT)
    ] = None,
    hardware_compatible: Annotated[
        CompatibilityName | None, typer.Option(help="Run on other GPUs too.", rich_help_panel=_TENSORRT)
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run on later versions too.", rich_help_panel=_TENSORRT)
    ] = False,
    refit: Annotated[
        bool, typer.Option("--refit", help="Weights can be exchanged later.", rich_help_panel=_TENSORRT)
    ] = False,
    detailed_profiling: Annotated[
        bool, typer.Option("--detailed-profiling", help="Keep layer details.", rich_help_panel=_TENSORRT)
    ] = False,
    engine_cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Engines and timings of earlier builds; default: below ~/.cache.", show_default=False
        ),
    ] = None,
    no_engine_cache: Annotated[bool, typer.Option("--no-engine-cache", help="Build everything, keep nothing.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build the engine of every stage, place the stages and schedule them.

    Example: parnet-deploy build bundle -o plan --backend onnxruntime

    Example: parnet-deploy build bundle -o plan --backend tensorrt --compute-capability 86,89
    """
    from rich.console import Group

    from parnet_deploy.artifacts.folders import open_bundle, open_plan
    from parnet_deploy.cli.placement_file import read_placement
    from parnet_deploy.engines import build_plan
    from parnet_deploy.engines.cpu import read_cpuinfo
    from parnet_deploy.engines.options import (
        BuildOptions,
        TensorRTOptions,
        default_cache_dir,
        parse_compute_capabilities,
        parse_devices,
    )
    from parnet_deploy.engines.precisions import saturating_form, slow_form

    is_cached = backend == "tensorrt" and not no_engine_cache
    options = BuildOptions(
        devices=None if devices is None else parse_devices(devices),
        placement=None if placement is None else read_placement(placement, open_bundle(bundle).manifest.partition),
        tf32=tf32,
        memory_factor=memory_factor,
        tensorrt=TensorRTOptions(
            flavour=None if trt_flavour is None else trt_flavour.value,
            compute_capabilities=() if compute_capability is None else parse_compute_capabilities(compute_capability),
            workspace_bytes=None if workspace is None else workspace * 2**20,
            optimization_level=optimization_level,
            hardware_compatibility=None if hardware_compatible is None else hardware_compatible.value,
            version_compatible=version_compatible,
            refit=refit,
            detailed_profiling=detailed_profiling,
            cache_dir=engine_cache or (default_cache_dir() if is_cached else None),
        ),
    )
    with spinner("reading the bundle") as progress:
        build_plan(
            bundle,
            output,
            backend=backend,
            threads=threads,
            options=options,
            force=force,
            progress=lambda stage, done, total: describe(progress, f"building {stage} ({done + 1}/{total})"),
        )
        plan = open_plan(output).manifest
    manifest, (_, flags) = open_bundle(bundle).manifest, read_cpuinfo()
    for note in (slow_form(manifest, backend), saturating_form(manifest, backend, flags)):
        if note is not None:
            stderr().print(f"note: {note}", soft_wrap=True)
    made_for = ", ".join(dict.fromkeys(device.name for device in plan.devices))
    made = f"{output}: {plan.backend} {plan.backend_version} on {made_for}"
    emit(plan.model_dump(mode="json"), Group(engine_table(plan), made), as_json=as_json)


def engine_table(plan: Plan) -> Table:
    """Tabulate a plan's engines: lane, threads or layers, size."""
    from rich.table import Table

    on_cpu = all(lane.device == "cpu" for lane in plan.placement.values())
    table = Table("stage", "lane", "threads" if on_cpu else "layers", "engine", box=None)
    for engine in plan.engines:
        layers = ", ".join(f"{count} {kind.lower()}" for kind, count in _most(engine.layers))
        table.add_row(
            engine.stage,
            str(plan.placement[engine.stage]),
            str(engine.threads) if on_cpu else f"{sum(engine.layers.values())}: {layers}",
            format_bytes(engine.size_bytes),
        )
    return table


def _most(layers: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(layers.items(), key=lambda item: -item[1])[:4]
