"""Load the engines of a plan, after checking that the plan belongs to this machine and cannot run out of order."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

from parnet_deploy.artifacts.folders import OpenPlan
from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.engines.base import Backend, DeviceEngine, Engine, stage_spec
from parnet_deploy.engines.gpus import covers
from parnet_deploy.engines.options import options_of_plan
from parnet_deploy.engines.registry import get_backend
from parnet_deploy.errors import BUILD_AGAIN, ArtifactError, EngineError, ParNetError
from parnet_deploy.planning.schedule import check_schedule


def check_plan(plan: OpenPlan, backend: Backend) -> None:
    """Check that a plan's schedule is sound and that it was built for this backend version and these devices.

    Raises:
        ArtifactError: a schedule that could run a stage before its inputs are there.
        EngineError: another version of the backend, or a device of another capability.
    """
    manifest, where = plan.manifest, plan.folder / "plan.json"
    try:
        check_schedule(manifest.schedule, manifest.stages, manifest.placement, manifest.input, manifest.output)
    except ValueError as error:
        raise ArtifactError(f"the schedule is not sound: {error}", where=where, remedy=BUILD_AGAIN) from error
    if not backend.runs(manifest.backend_version):
        raise EngineError(
            f"built with {backend.name} {manifest.backend_version}, and this is {backend.version()}",
            where=where,
            remedy=BUILD_AGAIN,
        )
    devices = {record.device: record for record in manifest.devices}
    used = sorted({lane.device for lane in manifest.placement.values()})
    for found in backend.device_records(used):
        built_for = devices.get(found.device)
        if built_for is None or not _runs_on(built_for, found):
            wanted = "nothing" if built_for is None else f"{built_for.name} ({built_for.capability})"
            raise EngineError(
                f"built for {wanted} as {found.device}, and this is {found.name} ({found.capability})",
                where=where,
                remedy=BUILD_AGAIN,
            )


def _runs_on(built_for: DeviceRecord, found: DeviceRecord) -> bool:
    """A processor must have the very capability; an engine for GPUs may be for several."""
    if found.device == "cpu":
        return built_for.capability == found.capability
    return covers(built_for.capability, found.capability)


def open_backend(plan: OpenPlan) -> Backend:
    """Return the backend of a plan, once it is certain that the plan can run here.

    Raises:
        ArtifactError: an unsound schedule.
        EngineError: an unknown backend, or another version or device than the plan was built for.
        MissingDependencyError: the backend's package is not installed.
    """
    manifest = plan.manifest
    backend = get_backend(manifest.backend, options_of_plan(manifest))
    check_plan(plan, backend)
    return backend


def load_engines(
    plan: OpenPlan,
    backend: Backend,
    current: Callable[[Lane], AbstractContextManager[object]] = lambda _: nullcontext(),
) -> dict[str, Engine | DeviceEngine]:
    """Load every stage's engine, by stage name; `current` makes a lane's device current while that is done.

    Raises:
        EngineError: an engine file that does not load; those that were loaded are closed.
    """
    manifest = plan.manifest
    is_alone = len(manifest.stages) == 1
    engines: dict[str, Engine | DeviceEngine] = {}
    try:
        for stage, record in zip(manifest.stages, manifest.engines, strict=True):
            lane = manifest.placement[stage.name]
            spec = stage_spec(stage, manifest, lane, record.threads, is_alone=is_alone, cores=record.cores)
            with current(lane):
                engines[stage.name] = backend.load(plan.folder / record.file.name, spec)
    except BaseException:
        for name, engine in engines.items():
            with suppress(ParNetError), current(manifest.placement[name]):
                engine.close()
        raise
    return engines
