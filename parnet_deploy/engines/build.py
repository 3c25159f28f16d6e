"""Build a plan from a bundle: place the stages, schedule them, and build each one's engine."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from parnet_deploy.artifacts.files import holds, refuse_folder, refuse_source, replacing_folder, write_manifest
from parnet_deploy.artifacts.folders import OpenBundle, open_bundle
from parnet_deploy.artifacts.schemas import EngineRecord, FileRecord, Graph, Lane, Plan, Stage
from parnet_deploy.engines.base import Backend, stage_spec, weights_path
from parnet_deploy.engines.cpu import available_cores
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.engines.precisions import check_capability, check_form
from parnet_deploy.engines.registry import get_backend
from parnet_deploy.errors import EngineError
from parnet_deploy.planning.placement import place, split_threads
from parnet_deploy.planning.schedule import schedule

# Called with the stage's name, how many are done and how many there are, before each is built; and while it is built,
# with what is being done behind the name, where the backend tells. One call at a time.
Progress = Callable[[str, int, int], None]


def build_plan(
    bundle: Path,
    output: Path,
    *,
    backend: str = "onnxruntime",
    threads: int | None = None,
    options: BuildOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Build the engines of a bundle and return the plan's folder.

    `threads` is the number of cores that a plan for the processor may use, by default all that this process has; stages
    that run at the same time share them. `options` are for GPUs: devices, TF32, and how TensorRT builds.

    Raises:
        ArtifactError: the bundle is damaged, or the output cannot be written.
        OutputExistsError: the output exists and `force` is not set, or is the bundle itself.
        EngineError: an unknown backend, options that are not for it or the bundle, a thread count below 1, a bundle
            that is quantised for another backend, or a stage that the backend cannot build.
        MissingDependencyError: the backend's package is not installed.
    """
    bundle, output = Path(bundle), Path(output)
    if threads is not None and threads < 1:
        raise EngineError(f"{threads} threads cannot run anything", remedy="pass a thread count of at least 1")
    refuse_source(output, bundle, "the plan would replace the bundle it is made from")
    refuse_folder(output, force=force, is_ours=holds("plan.json"))
    options = options or BuildOptions()
    builder = get_backend(backend, options)
    opened = open_bundle(bundle)
    check_form(opened.manifest, backend)
    stages = tuple(Stage(name=s.name, inputs=s.inputs, outputs=s.outputs) for s in opened.manifest.stages)
    placement = _place(stages, builder, options)
    counts = _threads_of(stages, placement, threads)
    devices = builder.device_records(_devices_of(placement))
    check_capability(opened.manifest, devices)
    with replacing_folder(output, force=force, is_ours=holds("plan.json")) as folder:
        build = _Build(opened, builder, stages, placement, counts, folder, progress)
        engines = build.run()
        shared = {name: getattr(opened.manifest, name) for name in Graph.model_fields}
        plan = Plan(
            **{**shared, "parent": opened.as_parent()},
            backend=builder.name,
            backend_version=builder.version(),
            build_options=options.as_record(),
            devices=devices,
            stages=stages,
            engines=engines,
            placement=placement,
            schedule=schedule(stages, placement, opened.manifest.input, opened.manifest.output),
        )
        write_manifest(folder / "plan.json", plan)
    return output


@dataclass
class _Build:
    """The engines of one plan in the making: devices at the same time, the stages of a device one after another."""

    bundle: OpenBundle
    backend: Backend
    stages: tuple[Stage, ...]
    placement: dict[str, Lane]
    threads: dict[str, int]
    folder: Path
    progress: Progress | None

    def __post_init__(self) -> None:
        self._lock = Lock()
        self._done = 0
        self._error: BaseException | None = None

    def run(self) -> tuple[EngineRecord, ...]:
        devices = _devices_of(self.placement)
        records: dict[str, EngineRecord] = {}
        with ThreadPoolExecutor(max_workers=len(devices)) as pool:
            try:
                for built in pool.map(self._build_device, devices):
                    records.update(built)
            except BaseException as error:
                # An interrupt of this thread is a failure too: the builds that run are told to stop.
                self._error = self._error or error
        if self._error is not None:
            # The first failure is the cause of the others.
            raise self._error
        return tuple(records[stage.name] for stage in self.stages)

    def _build_device(self, device: str) -> dict[str, EngineRecord]:
        records: dict[str, EngineRecord] = {}
        for stage in self.stages:
            # What another device's failure has made useless is not begun.
            if self.placement[stage.name].device == device and self._error is None:
                records[stage.name] = self._build_stage(stage)
        return records

    def _tell(self, text: str) -> bool:
        with self._lock:
            if self.progress is not None:
                self.progress(text, self._done, len(self.stages))
        return self._error is None

    def _build_stage(self, stage: Stage) -> EngineRecord:
        self._tell(stage.name)
        path = self.folder / f"{stage.name}{self.backend.suffix}"
        lane, count = self.placement[stage.name], self.threads[stage.name]
        spec = stage_spec(stage, self.bundle.manifest, lane, count, is_alone=len(self.stages) == 1)
        try:
            layers = self.backend.build(
                self.bundle.file_of(stage.name), spec, path, report=lambda step: self._tell(f"{stage.name}: {step}")
            )
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            raise
        with self._lock:
            self._done += 1
        weights = weights_path(path)
        return EngineRecord(
            stage=stage.name,
            file=FileRecord.of(path),
            weights=FileRecord.of(weights) if weights.exists() else None,
            threads=count,
            layers=dict(layers),
        )


def _place(stages: tuple[Stage, ...], backend: Backend, options: BuildOptions) -> dict[str, Lane]:
    if options.placement is None:
        return place(stages, backend.lanes(len(stages)))
    names = [stage.name for stage in stages]
    if sorted(options.placement) != sorted(names):
        raise EngineError(
            f"the placement is for stages {', '.join(options.placement)}, the bundle has {', '.join(names)}",
            remedy="place each stage, and no others",
        )
    return {name: options.placement[name] for name in names}


def _threads_of(stages: tuple[Stage, ...], placement: dict[str, Lane], threads: int | None) -> dict[str, int]:
    if _devices_of(placement) == ["cpu"]:
        return split_threads(stages, placement, available_cores() if threads is None else threads)
    if threads is not None:
        raise EngineError("a plan for GPUs takes no thread count", remedy="leave out --threads")
    return dict.fromkeys(placement, 1)


def _devices_of(placement: dict[str, Lane]) -> list[str]:
    return sorted({lane.device for lane in placement.values()})
