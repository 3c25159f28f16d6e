"""`parnet-deploy inspect`: what an artefact holds, where it comes from, and how it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parnet_deploy.cli.common import JsonOption, emit, format_bytes

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from parnet_deploy.artifacts.folders import OpenBundle, OpenCard, OpenPlan
    from parnet_deploy.artifacts.schemas import Bundle, Graph, Parent, Plan, Stage


def inspect(
    artefact: Annotated[Path, typer.Argument(help="Checkpoint, bundle or plan.", show_default=False)],
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time a plan's stages for the timeline.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Show an artefact's stages, tensors, sizes and provenance; of a plan also the schedule as a timeline.

    Example: parnet-deploy inspect plan
    """
    from rich.console import Group

    from parnet_deploy.artifacts.folders import kind_of, open_bundle, open_card, open_plan

    kind = kind_of(artefact)
    if kind == "checkpoint":
        opened: Any = open_card(artefact)
        parts = _describe_checkpoint(opened)
    elif kind == "bundle":
        opened = open_bundle(artefact)
        parts = [
            *_describe_graph(artefact, opened.manifest, opened.sha256),
            _stage_table(opened.manifest),
            _bundle_files(opened),
        ]
    else:
        opened = open_plan(artefact)
        parts = [
            *_describe_graph(artefact, opened.manifest, opened.sha256),
            _stage_table(opened.manifest),
            _plan_files(opened),
            _built_for(opened.manifest),
            *_tuned(opened.manifest),
            *_traffic(opened.manifest),
            *_timeline(opened, measure=measure),
        ]
    manifest = opened.manifest.model_dump(mode="json")
    emit({"sha256": opened.sha256, "manifest": manifest}, Group(*parts), as_json=as_json)


def _provenance(parent: Parent | None) -> str:
    return "made here" if parent is None else f"made from {parent.kind} {parent.name} (sha256 {parent.sha256[:12]})"


def _describe_checkpoint(opened: OpenCard) -> list[RenderableType]:
    card, cfg = opened.manifest, opened.manifest.network
    pre = card.preprocessing
    return [
        f"{opened.weights_path}: checkpoint, {card.architecture}, {card.form} form, "
        f"{format_bytes(card.weights.size_bytes)}",
        f"card sha256 {opened.sha256[:12]}, {_provenance(card.parent)}",
        f"stem {list(cfg.stem)}, planes {list(cfg.planes)}, blocks {list(cfg.num_blocks)}, last {cfg.last_planes} "
        f"({cfg.last}), {cfg.activation}, {cfg.num_classes} classes, depth {cfg.depth}",
        f"input {list(pre.input_size)}, {pre.interpolation}, crop {pre.crop_pct}, sides multiples of {cfg.reduction}",
        *(f"{name}: {value:.4g}" for name, value in card.metrics.items()),
        *(f"{name}: {value}" for name, value in card.origin.items()),
    ]


def _describe_graph(path: Path, graph: Bundle | Plan, sha256: str) -> list[RenderableType]:
    batch = graph.batch
    sizes = f"{batch.min}:{batch.opt}:{batch.max}" if batch.is_dynamic else str(batch.opt)
    return [
        f"{path}: {graph.kind}, {graph.name}, {graph.form} form, {graph.precision}, "
        f"partition {graph.partition}, batch {sizes}",
        f"manifest sha256 {sha256[:12]}, {_provenance(graph.parent)}",
    ]


def _stage_table(graph: Bundle | Plan) -> Table:
    from rich.table import Table

    table = Table("stage", "input", "shape", "output", "shape", "bytes out", box=None)
    for stage in graph.stages:
        table.add_row(
            stage.name, *_tensors(graph, stage.inputs), *_tensors(graph, stage.outputs), _bytes_out(graph, stage)
        )
    return table


def _tensors(graph: Graph, names: tuple[str, ...]) -> tuple[str, str]:
    shapes = (f"{graph.tensors[name].dtype} {list(graph.tensors[name].shape)}" for name in names)
    return "\n".join(names), "\n".join(shapes)


def _bytes_out(graph: Graph, stage: Stage) -> str:
    return format_bytes(sum(graph.tensors[name].size_bytes for name in stage.outputs))


def _bundle_files(opened: OpenBundle) -> Table:
    from rich.table import Table

    table = Table("file", "size", "sha256", "nodes", box=None)
    for stage in opened.manifest.stages:
        counts = ", ".join(f"{count} {op}" for op, count in stage.node_counts.items())
        table.add_row(stage.file.name, format_bytes(stage.file.size_bytes), stage.file.sha256[:12], counts)
    return table


def _plan_files(opened: OpenPlan) -> Table:
    from rich.table import Table

    plan = opened.manifest
    on_cpu = all(lane.device == "cpu" for lane in plan.placement.values())
    table = Table("engine", "size", "sha256", "lane", "threads" if on_cpu else "layers", box=None)
    for engine in plan.engines:
        table.add_row(
            "\n".join(file.name for file in engine.files),
            "\n".join(format_bytes(file.size_bytes) for file in engine.files),
            "\n".join(file.sha256[:12] for file in engine.files),
            str(plan.placement[engine.stage]),
            str(engine.threads) if on_cpu else ", ".join(f"{n} {kind.lower()}" for kind, n in engine.layers.items()),
        )
    return table


def _built_for(plan: Plan) -> str:
    devices = ", ".join(f"{device.device}: {device.name} ({device.capability})" for device in plan.devices)
    options = "".join(f", {name} {value}" for name, value in plan.build_options.items())
    return f"built for {devices} with {plan.backend} {plan.backend_version}{options}"


def _tuned(plan: Plan) -> list[str]:
    if plan.tuning is None:
        return []
    found = plan.tuning
    return [
        f"tuned: {found.chosen}, the best of {found.tried} that were tried, {found.latency_ms:.4g} ms "
        f"({found.record.name})"
    ]


def _traffic(plan: Plan) -> list[str]:
    from parnet_deploy.planning.schedule import bytes_moved

    host, across = bytes_moved(plan.schedule, {name: tensor.size_bytes for name, tensor in plan.tensors.items()})
    if host == 0:
        return []
    return [f"per image: {format_bytes(across)} between devices, {format_bytes(host)} to and from the host"]


def _timeline(opened: OpenPlan, *, measure: bool) -> list[RenderableType]:
    from parnet_deploy.planning.timeline import draw_timeline, simulate

    plan = opened.manifest
    # A plan for GPUs can be inspected anywhere; what is for the processor has to run on this one.
    if measure and all(lane.device == "cpu" for lane in plan.placement.values()):
        import numpy as np

        from parnet_deploy.runtime import Session

        with Session.open(opened.folder) as session:
            session.warm_up()
            zeros = np.zeros((plan.batch.opt, *plan.preprocessing.input_size), np.float32)
            (spans,) = session.profile(zeros)
        title = "timeline of one measured request"
    else:
        sizes = {engine.stage: engine.size_bytes / 2**20 for engine in plan.engines}
        spans = simulate(plan.schedule, {name: max(size, 1e-3) for name, size in sizes.items()})
        title = "timeline if a stage took one millisecond per MiB of its engine (not measured)"
    from rich.text import Text

    return ["", title, Text(draw_timeline(spans, 100))]
