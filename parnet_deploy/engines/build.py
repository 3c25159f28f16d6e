"""Build a plan from a bundle: place the stages, schedule them, and build each one's engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from parnet_deploy.artifacts.files import refuse_existing, replacing_folder, write_manifest
from parnet_deploy.artifacts.folders import OpenBundle, open_bundle
from parnet_deploy.artifacts.schemas import EngineRecord, FileRecord, Graph, Lane, Plan, Stage
from parnet_deploy.engines.base import Backend, stage_spec
from parnet_deploy.engines.cpu import available_cores
from parnet_deploy.engines.registry import get_backend
from parnet_deploy.errors import EngineError, OutputExistsError
from parnet_deploy.planning.placement import device_lanes, place, split_threads
from parnet_deploy.planning.schedule import schedule

# Called before each stage is built, with its name, how many are done, and how many there are.
Progress = Callable[[str, int, int], None]


def build_plan(
    bundle: Path,
    output: Path,
    *,
    backend: str = "onnxruntime",
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Build the engines of a bundle for this machine's processor and return the plan's folder.

    `threads` is the number of cores that the plan may use, by default all that this process has; stages that run at the
    same time share them.

    Raises:
        ArtifactError: the bundle is damaged, or the output cannot be written.
        OutputExistsError: the output exists and `force` is not set, or is the bundle itself.
        EngineError: an unknown backend, a thread count below 1, or a stage that the backend cannot build.
        MissingDependencyError: the backend's package is not installed.
    """
    bundle, output = Path(bundle), Path(output)
    if threads is not None and threads < 1:
        raise EngineError(f"{threads} threads cannot run anything", remedy="pass a thread count of at least 1")
    refuse_existing(output, force=force)
    if output.exists() and output.resolve() == bundle.resolve():
        raise OutputExistsError("the plan would replace the bundle it is made from", where=output)
    builder = get_backend(backend)
    opened = open_bundle(bundle)
    cores = available_cores() if threads is None else threads
    with replacing_folder(output, force=force) as folder:
        write_manifest(folder / "plan.json", _build_engines(opened, builder, cores, folder, progress))
    return output


def _build_engines(bundle: OpenBundle, backend: Backend, cores: int, folder: Path, progress: Progress | None) -> Plan:
    manifest = bundle.manifest
    stages = tuple(Stage(name=stage.name, inputs=stage.inputs, outputs=stage.outputs) for stage in manifest.stages)
    # A lane for every branch, also where there are fewer cores: the system then shares them among unequal branches,
    # where stages queued on few lanes would leave a core idle behind the shorter queue.
    placement = place(stages, device_lanes("cpu", len(stages)))
    threads = split_threads(stages, placement, cores)
    devices = backend.device_records(_devices_of(placement))
    engines = []
    for index, stage in enumerate(stages):
        if progress is not None:
            progress(stage.name, index, len(stages))
        path = folder / f"{stage.name}{backend.suffix}"
        lane, count = placement[stage.name], threads[stage.name]
        spec = stage_spec(stage, manifest, lane, count, is_alone=len(stages) == 1)
        backend.build(bundle.file_of(stage.name), spec, path)
        engines.append(EngineRecord(stage=stage.name, file=FileRecord.of(path), threads=count))
    shared = {name: getattr(manifest, name) for name in Graph.model_fields}
    return Plan(
        **{**shared, "parent": bundle.as_parent()},
        backend=backend.name,
        backend_version=backend.version(),
        devices=devices,
        stages=stages,
        engines=tuple(engines),
        placement=placement,
        schedule=schedule(stages, placement, manifest.input, manifest.output),
    )


def _devices_of(placement: dict[str, Lane]) -> list[str]:
    return sorted({lane.device for lane in placement.values()})
