"""Our plans on the processor: exported, fused, built and opened as a user would."""

from __future__ import annotations

from pathlib import Path

from benchmarks.contenders.base import SEED, CannotRunError, Job, Opened
from parnet_deploy.errors import MissingDependencyError


def _plan(job: Job) -> Path:
    given = job.option("folder")
    if given:
        return Path(given)
    return job.folder / "-".join(["plan", *(job.contender.options.values())])


def prepare_bundle(job: Job, *, partition: str, precision: str = "fp32") -> Path:
    """Return the case's bundle: random weights, fused, exported; made where it is not there."""
    from parnet_deploy.artifacts.schemas import BatchRange
    from parnet_deploy.export import ExportOptions, export_bundle
    from parnet_deploy.fusion import fuse
    from parnet_deploy.models.checkpoints import save_checkpoint
    from parnet_deploy.models.initialization import create_random_network
    from parnet_deploy.models.variants import get_variant

    bundle = job.folder / f"bundle-{partition}-{precision}"
    if bundle.exists():
        return bundle
    checkpoint = job.folder / "fused.safetensors"
    if not checkpoint.with_suffix(".json").exists():
        variant = get_variant(job.case.network)
        save_checkpoint(
            checkpoint,
            fuse(create_random_network(variant.network, SEED)),
            architecture=job.case.network,
            preprocessing=variant.preprocessing,
            force=True,
        )
    batch = BatchRange(min=job.case.batch, opt=job.case.batch, max=job.case.batch)
    options = ExportOptions(partition, precision, batch, job.case.pixels)  # type: ignore[arg-type]
    export_bundle(checkpoint, bundle, options)
    return bundle


def prepare(job: Job) -> None:
    """Build the plan; of a plan that is given there is nothing to do."""
    from parnet_deploy.engines import build_plan
    from parnet_deploy.engines.options import BuildOptions

    if _plan(job).exists():
        return
    try:
        factor = job.option("memory_factor")
        build_plan(
            prepare_bundle(job, partition=job.option("partition")),
            _plan(job),
            backend=job.option("backend"),
            options=BuildOptions(memory_factor=float(factor) if factor else None),
        )
    except MissingDependencyError as error:
        raise CannotRunError(error.what) from error


def open_contender(job: Job) -> Opened:
    """Open a session."""
    from parnet_deploy.runtime import Session

    session = Session.open(_plan(job))
    plan = session.plan
    details = {plan.backend: plan.backend_version, "sha256": session.folder.name}
    return Opened(session.infer, details=details)
