"""The overhead of the harness: a plan's twin whose engines do nothing, measured as the plan is."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.folders import OpenPlan
from parnet_deploy.artifacts.measurements import ScenarioSettings
from parnet_deploy.artifacts.schemas import FileRecord, Plan
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.engines.null import NullBackend
from parnet_deploy.planning.schedule import HOST

# A query takes some tens of microseconds, so this is thousands of them.
_DURATION_MS = 500


def harness_settings() -> ScenarioSettings:
    """Return how the harness is measured: single queries, one at a time."""
    return settings_for("single-stream", duration_ms=_DURATION_MS)


def can_be_emptied(plan: Plan) -> bool:
    """Tell whether a plan's twin takes the same way through the harness: only on the processor."""
    return {lane.device for lane in plan.placement.values()} == {HOST}


def write_empty_twin(plan: OpenPlan, folder: Path) -> None:
    """Write a plan of the same stages, lanes, threads and schedule into the existing `folder`, with null engines.

    Images are copied in and logits out, lanes signal each other; only the stages take no time.
    """
    backend = NullBackend()
    manifest = plan.manifest
    engines = []
    for record in manifest.engines:
        path = folder / f"{record.stage}{backend.suffix}"
        path.write_bytes(b"")
        engines.append(record.model_copy(update={"file": FileRecord.of(path), "layers": {}}))
    twin = manifest.model_copy(
        update={
            "backend": backend.name,
            "backend_version": backend.version(),
            "build_options": {},
            "devices": backend.device_records([HOST]),
            "engines": tuple(engines),
        }
    )
    write_manifest(folder / "plan.json", twin)
