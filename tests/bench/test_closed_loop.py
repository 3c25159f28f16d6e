"""Closed loops: how many are in flight, what is counted, and what becomes of a failure."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from parnet_deploy.bench.closed_loop import LEAST_BATCHES, run_closed_loop
from parnet_deploy.bench.infer import Images
from parnet_deploy.errors import EngineError, InferenceError

IMAGES = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
TIMEOUT_S = 20.0


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_client_sends_batches_of_the_size_that_was_asked_for(clients: int, batch: int) -> None:
    sent: list[tuple[str, int]] = []

    def infer(images: Images) -> None:
        sent.append((threading.current_thread().name, images.shape[0]))

    measured = run_closed_loop(infer, IMAGES, clients=clients, batch=batch, min_duration_ms=1)
    assert {size for _, size in sent} == {batch}
    assert len(measured.latencies_ns) == len(sent)
    counts = [sum(name == f"client {client}" for name, _ in sent) for client in range(clients)]
    assert min(counts) >= LEAST_BATCHES
    assert measured.elapsed_ns >= 1_000_000
    # A client's latencies lie end to end within the loop.
    assert sum(measured.latencies_ns) <= clients * measured.elapsed_ns


def test_clients_are_in_flight_together() -> None:
    # The barrier opens only when three inferences are in flight at once; after that nothing waits.
    meeting = threading.Barrier(3)
    met = threading.Event()

    def infer(_: Images) -> None:
        if not met.is_set():
            meeting.wait(TIMEOUT_S)
            met.set()

    run_closed_loop(infer, IMAGES, clients=3, batch=1, min_duration_ms=1)
    assert met.is_set()


def test_a_client_sends_nothing_before_its_answer() -> None:
    in_flight: dict[str, int] = {}

    def infer(_: Images) -> None:
        name = threading.current_thread().name
        in_flight[name] = in_flight.get(name, 0) + 1
        assert in_flight[name] == 1
        in_flight[name] -= 1

    run_closed_loop(infer, IMAGES, clients=2, batch=1, min_duration_ms=1)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(ZeroDivisionError("no answer"), InferenceError), (EngineError("stage 'join' failed"), EngineError)],
)
def test_a_failure_ends_the_loop_and_is_raised(error: Exception, raised: Any) -> None:
    before = threading.active_count()

    def infer(_: Images) -> None:
        raise error

    with pytest.raises(raised, match=r"no answer|join"):
        run_closed_loop(infer, IMAGES, clients=3, batch=1, min_duration_ms=60_000)
    assert threading.active_count() == before
