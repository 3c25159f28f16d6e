"""Run one measurement of one plan, alone in this process: `python -m parnet_deploy.bench.worker < request.json`.

Contenders that share a process disturb each other through their thread pools, so each run has a process of its own.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from parnet_deploy.artifacts.measurements import BenchRound, ColdStart, ScenarioSettings, StageTiming, SweepPoint
from parnet_deploy.artifacts.schemas import BatchRange, Plan
from parnet_deploy.bench.closed_loop import run_closed_loop
from parnet_deploy.bench.infer import Images
from parnet_deploy.bench.loadgen import run_scenario
from parnet_deploy.bench.machine import peak_memory_bytes
from parnet_deploy.bench.protocol import RoundRequest, RoundResult, SweepRequest, SweepResult
from parnet_deploy.bench.scenarios import with_server_targets
from parnet_deploy.bench.statistics import (
    NANOSECONDS_PER_MS,
    latency_statistics,
    median_stage_times,
    typical_timeline,
)
from parnet_deploy.errors import ParNetError
from parnet_deploy.planning.queueing import queueing
from parnet_deploy.planning.timeline import Span
from parnet_deploy.runtime.session import Session

# The sample library: enough images that no cache holds them all, few enough to be made in a moment.
_LIBRARY_SIZE = 16

_REQUEST: TypeAdapter[RoundRequest | SweepRequest] = TypeAdapter(RoundRequest | SweepRequest)


def measure_round(request: RoundRequest) -> RoundResult:
    """Open the plan, answer once from cold, warm up, run the scenario, then profile the stages.

    Raises:
        ParNetError: the plan cannot be opened or an inference failed.
    """
    begun_ns = time.monotonic_ns()
    settings = request.settings
    with Session.open(Path(request.plan), pipelines=settings.concurrency, cuda=settings.cuda) as session:
        opened_ns = time.monotonic_ns()
        session.infer(np.zeros((1, *_image_shape(session)), np.float32))
        cold_start = cold_start_from(request.launched_ns, begun_ns, opened_ns, time.monotonic_ns())

        images = _library(session, settings)
        session.warm_up(settings.warm_up_runs)
        batch_size = batch_size_of(settings, session.plan.batch)
        batch = np.resize(images, (batch_size, *images.shape[1:]))
        latency_ms = _fastest_ms(session, batch, settings.warm_up_runs)
        settings = with_server_targets(settings, latency_ms=latency_ms)
        measured = run_scenario(
            session.infer,
            images,
            settings,
            batch_size=batch_size,
            expected_latency_ms=expected_latency_ms(settings, latency_ms, batch_size=batch_size),
        )
        # Before the profile, whose records are none of the plan's memory.
        peak = peak_memory_bytes()
        profiled = [timings_of(spans, session.plan) for spans in session.profile(batch, settings.profile_runs)]
    return RoundResult(
        settings=settings,
        round=BenchRound(
            verdict="VALID" if measured.is_valid else "INVALID",
            reasons=measured.reasons,
            query_count=measured.query_count,
            sample_count=measured.sample_count,
            latencies_ns=measured.latencies_ns,
            latency=latency_statistics(measured.latencies_ns),
            samples_per_second=measured.samples_per_second,
            cold_start=cold_start,
            peak_memory_bytes=peak,
            stages=median_stage_times(profiled),
            timeline=typical_timeline(profiled),
        ),
    )


def measure_point(request: SweepRequest) -> SweepResult:
    """Open the plan with a pipeline for each client, warm up, and run the closed loop.

    Raises:
        ParNetError: the plan cannot be opened or an inference failed.
    """
    settings = request.settings
    with Session.open(Path(request.plan), pipelines=request.concurrency, cuda=settings.cuda) as session:
        session.warm_up(settings.warm_up_runs)
        measured = run_closed_loop(
            session.infer,
            _library(session, settings),
            clients=request.concurrency,
            batch=request.batch,
            min_duration_ms=settings.min_duration_ms,
        )
        peak = peak_memory_bytes()
    point = SweepPoint(
        concurrency=request.concurrency,
        batch=request.batch,
        latency=latency_statistics(measured.latencies_ns),
        samples_per_second=request.batch * len(measured.latencies_ns) * 1e9 / measured.elapsed_ns,
        peak_memory_bytes=peak,
    )
    return SweepResult(point=point)


def cold_start_from(launched_ns: int, begun_ns: int, opened_ns: int, answered_ns: int) -> ColdStart:
    """Return the parts of a cold start from four readings of the system's monotonic clock."""
    return ColdStart(
        process_ms=max(0, begun_ns - launched_ns) / NANOSECONDS_PER_MS,
        open_ms=(opened_ns - begun_ns) / NANOSECONDS_PER_MS,
        first_answer_ms=(answered_ns - opened_ns) / NANOSECONDS_PER_MS,
    )


def batch_size_of(settings: ScenarioSettings, batch: BatchRange) -> int:
    """Return how many samples go into one inference: the batch that the plan is best at, where so many wait."""
    waiting = {"offline": batch.opt, "multi-stream": settings.samples_per_query}
    return min(batch.opt, waiting.get(settings.scenario, 1))


def expected_latency_ms(settings: ScenarioSettings, latency_ms: float, *, batch_size: int) -> float:
    """Return what LoadGen should expect of one query (offline: of one sample) where one batch takes `latency_ms`."""
    if settings.scenario == "offline":
        return latency_ms / batch_size
    if settings.scenario == "multi-stream":
        return latency_ms * math.ceil(settings.samples_per_query / batch_size) / settings.concurrency
    return latency_ms


def timings_of(spans: Sequence[Span], plan: Plan) -> tuple[StageTiming, ...]:
    """Return the spans of one inference with their waits: stages in the plan's order, then copies by their start."""
    order = [stage.name for stage in plan.stages]
    timings = [
        StageTiming(
            stage=entry.span.stage,
            lane=entry.span.lane,
            is_copy=entry.span.is_copy,
            start_ms=max(0.0, entry.span.start_ms),
            duration_ms=max(0.0, entry.span.end_ms - entry.span.start_ms),
            wait_ms=entry.wait_ms,
            lane_busy_ms=entry.lane_busy_ms,
        )
        for entry in queueing(spans, plan.stages)
    ]
    stages = sorted((timing for timing in timings if not timing.is_copy), key=lambda timing: order.index(timing.stage))
    return (*stages, *sorted((timing for timing in timings if timing.is_copy), key=lambda timing: timing.start_ms))


def _image_shape(session: Session) -> tuple[int, ...]:
    return session.plan.tensors[session.plan.input].shape


def _library(session: Session, settings: ScenarioSettings) -> Images:
    """Return the images that queries are made of, float32 [16, 3, H, W]."""
    shape = (_LIBRARY_SIZE, *_image_shape(session))
    return np.random.default_rng(settings.seed).standard_normal(shape, np.float32)


def _fastest_ms(session: Session, batch: Images, runs: int) -> float:
    """Return the fastest of several inferences: LoadGen must prepare enough queries for the fastest it will see."""
    durations_ns = []
    for _ in range(runs):
        begun_ns = time.perf_counter_ns()
        session.infer(batch)
        durations_ns.append(time.perf_counter_ns() - begun_ns)
    return max(1, min(durations_ns)) / NANOSECONDS_PER_MS


def main() -> int:
    """Read a request from standard input and write the result to its path; return the exit code."""
    # An interrupt would otherwise be raised inside LoadGen's loop, which cannot pass it on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request = _REQUEST.validate_json(sys.stdin.read())
    try:
        result = measure_round(request) if isinstance(request, RoundRequest) else measure_point(request)
    except ParNetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    Path(request.result_path).write_text(result.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
