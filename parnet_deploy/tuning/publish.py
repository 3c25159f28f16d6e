"""Write a tuned plan: the chosen engines, the record of what was tried, and its hash in the manifest."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import holds, replacing_folder, write_manifest
from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import FileRecord, Parent, TuningSummary
from parnet_deploy.artifacts.tuning import TuningReport
from parnet_deploy.tuning.workshop import link_or_copy

RECORD_NAME = "tuning.json"


def write_tuned_plan(source: Path, output: Path, report: TuningReport, parent: Parent, *, force: bool) -> None:
    """Write the plan in `source` to `output` with the report beside it, whole or not at all.

    `parent` is the bundle that was given; the one that the plan was built from may be cut from it, and is gone.

    Raises:
        OutputExistsError: the output exists and `force` is not set.
        ArtifactError: the output cannot be written.
    """
    plan = open_plan(source).manifest
    chosen = report.chosen
    assert chosen.latency_ms is not None
    with replacing_folder(output, force=force, is_ours=holds("plan.json")) as folder:
        for engine in plan.engines:
            for file in engine.files:
                link_or_copy(source / file.name, folder / file.name)
        write_manifest(folder / RECORD_NAME, report)
        summary = TuningSummary(
            record=FileRecord.of(folder / RECORD_NAME),
            chosen=chosen.label,
            tried=len(report.tried),
            latency_ms=chosen.latency_ms,
        )
        write_manifest(folder / "plan.json", plan.model_copy(update={"parent": parent, "tuning": summary}))
