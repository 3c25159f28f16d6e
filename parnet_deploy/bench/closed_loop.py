"""Run a closed loop: clients that each send a batch, wait for its answer, and send the next."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from threading import Barrier, Thread

import numpy as np

from parnet_deploy.bench.infer import Images, Infer, raise_failure

# A client that sends less would say little about the latency.
LEAST_BATCHES = 8


@dataclass(frozen=True)
class LoopMeasurement:
    """The latency of every batch of every client, and the time from the first batch sent to the last answer."""

    latencies_ns: tuple[int, ...]
    elapsed_ns: int


def run_closed_loop(infer: Infer, images: Images, *, clients: int, batch: int, min_duration_ms: int) -> LoopMeasurement:
    """Let `clients` threads send batches taken from `images` (float32 [N, 3, H, W]) for `min_duration_ms` at least.

    Each client sends at least eight batches.

    Raises:
        InferenceError: `infer` failed.
    """
    inputs = [np.resize(np.roll(images, client, axis=0), (batch, *images.shape[1:])) for client in range(clients)]
    # When each client began, and when each of its batches was answered.
    readings_ns: list[list[int]] = [[] for _ in range(clients)]
    failures: list[Exception] = []
    start = Barrier(clients)

    def serve(client: int) -> None:
        readings = readings_ns[client]
        start.wait()
        readings.append(time.perf_counter_ns())
        end_ns = readings[0] + min_duration_ms * 1_000_000
        while (len(readings) <= LEAST_BATCHES or readings[-1] < end_ns) and not failures:
            try:
                infer(inputs[client])
            except Exception as error:
                failures.append(error)
                return
            readings.append(time.perf_counter_ns())

    threads = [Thread(target=serve, args=(client,), name=f"client {client}") for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise_failure(failures[0])
    return LoopMeasurement(
        tuple(after - before for own in readings_ns for before, after in pairwise(own)),
        max(own[-1] for own in readings_ns) - min(own[0] for own in readings_ns),
    )
