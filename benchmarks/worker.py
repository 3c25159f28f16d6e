"""Prepare or measure one contender, alone in this process: `python -m benchmarks.worker < request.json`."""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, Contender, Effort
from benchmarks.contenders.base import Adapter, CannotRunError, Job, Opened
from benchmarks.records import Run, Turn
from parnet_deploy.bench.machine import peak_memory_bytes
from parnet_deploy.bench.statistics import NANOSECONDS_PER_MS, latency_statistics
from parnet_deploy.errors import ParNetError

_MOST_REQUESTS = 5000
_LEAST_REQUESTS = 3


def measure(job: Job, adapter: Adapter, effort: Effort, launched_ns: int) -> Run:
    """Open a contender, check its first answer, warm up and time requests.

    Raises:
        CannotRunError: the contender cannot run here.
    """
    images = job.images()
    ready_ns = time.monotonic_ns()
    opened = adapter.open_contender(job)
    opened_ns = time.monotonic_ns()
    logits = np.array(opened.infer(images))
    answered_ns = time.monotonic_ns()
    expected = _reference(job)
    request = _timed(opened, job)
    gc.collect()
    gc.disable()
    latencies_ns = time_requests(request, effort)
    return Run(
        latency=latency_statistics(latencies_ns),
        process_ms=(ready_ns - launched_ns) / NANOSECONDS_PER_MS,
        open_ms=(opened_ns - ready_ns) / NANOSECONDS_PER_MS,
        first_ms=(answered_ns - opened_ns) / NANOSECONDS_PER_MS,
        peak_bytes=peak_memory_bytes(),
        device_ms=opened.device_ms,
        difference=None if expected is None else float(np.abs(logits - expected).max() / np.abs(expected).max()),
        details=opened.details,
    )


def _reference(job: Job) -> NDArray[np.float32] | None:
    path = job.folder / "reference.npy"
    return cast(NDArray[np.float32], np.load(path)) if job.contender.role != "peak" and path.exists() else None


def _timed(opened: Opened, job: Job) -> Callable[[], int]:
    """Return a function that makes one request and says how long it took, in nanoseconds."""
    if opened.time_ms is not None:
        clock = opened.time_ms
        return lambda: round(clock() * NANOSECONDS_PER_MS)
    images = job.images()

    def request() -> int:
        begun = time.perf_counter_ns()
        opened.infer(images)
        return time.perf_counter_ns() - begun

    return request


def time_requests(request: Callable[[], int], effort: Effort) -> list[int]:
    """Warm up for a fifth of the effort's least time, then time requests until the effort is made."""
    begun = time.monotonic()
    request()
    while time.monotonic() - begun < effort.least_s / 5:
        request()
    begun = time.monotonic()
    latencies_ns: list[int] = []
    while len(latencies_ns) < _MOST_REQUESTS:
        elapsed, count = time.monotonic() - begun, len(latencies_ns)
        if count >= effort.least_requests and elapsed >= effort.least_s:
            break
        if count >= _LEAST_REQUESTS and elapsed >= effort.most_s:
            break
        latencies_ns.append(max(1, request()))
    return latencies_ns


def prepare(job: Job, adapter: Adapter) -> None:
    """Write what the contender needs; the first one of a case also writes what the case is compared with."""
    from benchmarks.networks import create_network, describe

    if not (job.folder / "case.json").exists():
        import torch

        with torch.inference_mode():
            logits = create_network(job.case, "unfused")(torch.from_numpy(job.images())).numpy()
        np.save(job.folder / "reference.npy", logits)
        describe(job.case, job.folder / "case.json")
    adapter.prepare(job)


def main() -> int:
    """Do what the request says; return the exit code."""
    request = json.loads(sys.stdin.read())
    contender = Contender(**request["contender"])
    job = Job(Case(**request["case"]), contender, Path(request["folder"]), Path(request["tools"]))
    turn = Turn()
    try:
        adapter = cast(Adapter, import_module(f"benchmarks.contenders.{contender.adapter}"))
        if request["action"] == "prepare":
            prepare(job, adapter)
        else:
            turn = Turn(run=measure(job, adapter, Effort(**request["effort"]), request["launched_ns"]))
    except (CannotRunError, ParNetError, ImportError) as error:
        turn = Turn(skipped=str(error))
    Path(request["result_path"]).write_text(turn.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
