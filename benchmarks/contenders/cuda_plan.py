"""Our plans on one GPU: whole, or split onto one stream or three, with CUDA graphs or without.

Backends that this version does not have are left out with that reason.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from benchmarks.contenders.base import CannotRunError, Job, Opened
from benchmarks.contenders.cuda_l2 import L2Flush
from benchmarks.contenders.plan import prepare_bundle
from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.artifacts.schemas import Lane
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.engines.registry import BACKEND_NAMES
from parnet_deploy.errors import MissingDependencyError
from parnet_deploy.planning.timeline import Span
from parnet_deploy.runtime import Session

_TIMED_BY_EVENTS = 30


def _plan(job: Job) -> Path:
    streams = job.option("streams").replace(" ", "-")
    return job.folder / f"plan-{job.option('backend')}-{streams}-{job.option('precision')}"


def prepare(job: Job) -> None:
    """Build the plan where it runs; GPUs' engines belong to their GPU."""
    backend = job.option("backend")
    if backend not in BACKEND_NAMES:
        raise CannotRunError(f"this version has no backend {backend!r}")
    if _plan(job).exists():
        return
    partition = "whole" if job.option("streams") == "whole" else "streams"
    bundle = prepare_bundle(job, partition=partition, precision=job.option("precision"))
    options = BuildOptions()
    if job.option("streams") == "one stream":
        names = [stage.name for stage in open_bundle(bundle).manifest.stages]
        options = BuildOptions(placement=dict.fromkeys(names, Lane(device="cuda:0")))
    try:
        build_plan(bundle, _plan(job), backend=backend, options=options)
    except MissingDependencyError as error:
        raise CannotRunError(error.what) from error


def open_contender(job: Job) -> Opened:
    """Open a session, with graphs demanded or refused."""
    flush = L2Flush()
    graphs = CudaOptions(graphs="always" if job.option("graphs") == "graph" else "never")
    session = Session.open(_plan(job), cuda=graphs)
    session.warm_up()
    images = job.images()

    def time_ms() -> float:
        flush()
        begun = time.perf_counter()
        session.infer(images)
        return (time.perf_counter() - begun) * 1e3

    plan = session.plan
    details = {plan.backend: plan.backend_version, "l2_bytes": str(flush.l2_bytes)}
    if graphs.graphs == "always":
        # Profiled requests are enqueued piece by piece, also where others are graphs.
        return Opened(session.infer, time_ms, details=details)
    timed = []
    for _ in range(_TIMED_BY_EVENTS):
        flush()
        timed.append(_device_ms(session.profile(images)[0]))
    return Opened(session.infer, time_ms, median(timed), details)


def _device_ms(spans: tuple[Span, ...]) -> float:
    return max(span.end_ms for span in spans) - min(span.start_ms for span in spans)
