"""Time one plan, alone in this process: `python -m parnet_deploy.tuning.worker < request.json`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
from pydantic import Field

from parnet_deploy.artifacts.schemas import Frozen, Positive
from parnet_deploy.bench.machine import peak_memory_bytes
from parnet_deploy.bench.statistics import NANOSECONDS_PER_MS
from parnet_deploy.engines.cpu import usable_cores
from parnet_deploy.errors import ParNetError
from parnet_deploy.runtime.session import Session

# Requests that are timed at least, and before them those that only warm up, also where there is no time for any.
_LEAST_REQUESTS = 5
_WARM_UPS = 2
_MOST_REQUESTS = 20_000
_MOST_PROFILED = 20


class TimeRequest(Frozen):
    """Time a plan for some seconds, on no more than so many cores; `launched_ns` is the system's clock."""

    plan: str
    seconds: Annotated[float, Field(gt=0)]
    cores: Positive | None = None
    launched_ns: Annotated[int, Field(ge=0)]
    result_path: str


class TimeResult(Frozen):
    """The median latency of a request of the plan's best batch; the medians of each stage's duration."""

    latency_ms: Annotated[float, Field(gt=0)]
    cold_start_ms: Annotated[float, Field(ge=0)]
    peak_bytes: Positive
    stage_ms: dict[str, float] = Field(default_factory=dict)


def time_plan(request: TimeRequest) -> TimeResult:
    """Open the plan, answer once, warm up, and time requests.

    Raises:
        ParNetError: the plan cannot be opened, or an inference failed.
    """
    if request.cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable_cores()[: request.cores])
    with Session.open(Path(request.plan)) as session:
        shape = (session.plan.batch.opt, *session.plan.tensors[session.plan.input].shape)
        images = np.random.default_rng(0).standard_normal(shape, np.float32)
        session.infer(images)
        answered_ns = time.monotonic_ns()
        for _ in range(_WARM_UPS):
            session.infer(images)
        latencies_ns: list[int] = []
        end = time.monotonic() + request.seconds
        while len(latencies_ns) < _LEAST_REQUESTS or (time.monotonic() < end and len(latencies_ns) < _MOST_REQUESTS):
            begun = time.perf_counter_ns()
            session.infer(images)
            latencies_ns.append(time.perf_counter_ns() - begun)
        stage_ms: dict[str, list[float]] = {}
        for spans in session.profile(images, min(_MOST_PROFILED, len(latencies_ns))):
            for span in spans:
                if not span.is_copy:
                    stage_ms.setdefault(span.stage, []).append(span.end_ms - span.start_ms)
    return TimeResult(
        latency_ms=max(1, median(latencies_ns)) / NANOSECONDS_PER_MS,
        cold_start_ms=max(0, answered_ns - request.launched_ns) / NANOSECONDS_PER_MS,
        peak_bytes=peak_memory_bytes(),
        stage_ms={stage: median(durations) for stage, durations in stage_ms.items()},
    )


def main() -> int:
    """Read a request from standard input and write the result to its path; return the exit code."""
    request = TimeRequest.model_validate_json(sys.stdin.read())
    try:
        result = time_plan(request)
    except ParNetError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    Path(request.result_path).write_text(result.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
