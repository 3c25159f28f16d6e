"""Measure one plan, alone in this process: `python -m parnet_deploy.bench.worker < request.json`.

Contenders that share a process disturb each other through their thread pools, so each run has a process of its own.
"""

from __future__ import annotations

import math
import signal
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.report import BenchRound, ColdStart, ScenarioSettings, StageTiming
from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.bench.loadgen import run_scenario
from parnet_deploy.bench.machine import peak_memory_bytes
from parnet_deploy.bench.protocol import WorkerRequest, WorkerResult
from parnet_deploy.bench.scenarios import with_server_targets
from parnet_deploy.bench.statistics import NANOSECONDS_PER_MS, latency_statistics, median_stage_times
from parnet_deploy.errors import ParNetError
from parnet_deploy.runtime.session import Session

# The sample library: enough images that no cache holds them all, few enough to be made in a moment.
_LIBRARY_SIZE = 16


def measure(request: WorkerRequest) -> WorkerResult:
    """Open the plan, answer once from cold, warm up, run the scenario, then time the stages.

    Raises:
        ParNetError: the plan cannot be opened or an inference failed.
    """
    begun_ns = time.monotonic_ns()
    settings = request.settings
    with Session.open(Path(request.plan), pipelines=settings.concurrency, cuda=settings.cuda) as session:
        opened_ns = time.monotonic_ns()
        shape = session.plan.tensors[session.plan.input].shape
        session.infer(np.zeros((1, *shape), np.float32))
        cold_start = cold_start_from(request.launched_ns, begun_ns, opened_ns, time.monotonic_ns())

        images = np.random.default_rng(settings.seed).standard_normal((_LIBRARY_SIZE, *shape), np.float32)
        session.warm_up(settings.warm_up_runs)
        batch_size = batch_size_of(settings, session.plan.batch)
        latency_ms = _fastest_ms(session, images, batch_size, settings.warm_up_runs)
        settings = with_server_targets(settings, latency_ms=latency_ms)
        measured = run_scenario(
            session.infer,
            images,
            settings,
            batch_size=batch_size,
            expected_latency_ms=expected_latency_ms(settings, latency_ms, batch_size=batch_size),
        )
        peak = peak_memory_bytes()
        stages = _stage_times(session, np.resize(images, (batch_size, *shape)), settings.warm_up_runs)
    return WorkerResult(
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
            stages=stages,
        ),
    )


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


def _fastest_ms(session: Session, images: NDArray[np.float32], batch_size: int, runs: int) -> float:
    """Return the fastest of several inferences: LoadGen must prepare enough queries for the fastest it will see."""
    inputs = np.resize(images, (batch_size, *images.shape[1:]))
    durations_ns = []
    for _ in range(runs):
        begun_ns = time.perf_counter_ns()
        session.infer(inputs)
        durations_ns.append(time.perf_counter_ns() - begun_ns)
    return max(1, min(durations_ns)) / NANOSECONDS_PER_MS


def _stage_times(session: Session, inputs: NDArray[np.float32], runs: int) -> tuple[StageTiming, ...]:
    """Return each stage's median start and duration over several inferences, in the order of the plan's stages."""
    order = [stage.name for stage in session.plan.stages]
    profiled = [
        [
            StageTiming(
                stage=span.stage, lane=span.lane, start_ms=span.start_ms, duration_ms=span.end_ms - span.start_ms
            )
            for span in spans
            if not span.is_copy
        ]
        for spans in session.profile(inputs, runs)
    ]
    return tuple(sorted(median_stage_times(profiled), key=lambda timing: order.index(timing.stage)))


def main() -> int:
    """Read a request from standard input and write the result to its path; return the exit code."""
    # An interrupt would otherwise be raised inside LoadGen's loop, which cannot pass it on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    request = WorkerRequest.model_validate_json(sys.stdin.read())
    try:
        result = measure(request)
    except ParNetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    Path(request.result_path).write_text(result.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
