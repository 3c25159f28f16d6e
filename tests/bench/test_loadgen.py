"""LoadGen really run, over functions that answer at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parnet_deploy.artifacts.measurements import Scenario, ScenarioSettings
from parnet_deploy.bench import loadgen
from parnet_deploy.bench.loadgen import run_scenario
from parnet_deploy.bench.loadgen_log import Measurement
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.statistics import latency_statistics
from parnet_deploy.errors import EngineError, InferenceError, ParNetError

IMAGES = np.arange(5, dtype=np.float32).reshape(5, 1, 1, 1)
TIMEOUT_S = 20.0


def short_settings(scenario: Scenario, **changes: Any) -> ScenarioSettings:
    targets = {"target_qps": 2000.0, "target_latency_ms": 1000.0} if scenario == "server" else {}
    return settings_for(scenario, min_queries=70, duration_ms=20, **(targets | changes))


def run_short(scenario: Scenario, infer: Callable[[NDArray[np.float32]], object], **changes: Any) -> Measurement:
    settings = short_settings(scenario, **changes)
    return run_scenario(infer, IMAGES, settings, batch_size=4, expected_latency_ms=0.002)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize(
    ("scenario", "queries", "samples_per_query", "largest_batch"),
    [("single-stream", 70, 1, 1), ("multi-stream", 70, 6, 4), ("server", 70, 1, 1), ("offline", 1, None, 4)],
)
def test_every_sample_is_inferred_once_and_timed_by_loadgen(
    scenario: Scenario, queries: int, samples_per_query: int | None, largest_batch: int, concurrency: int
) -> None:
    batches: list[int] = []
    seen: set[float] = set()

    def infer(images: NDArray[np.float32]) -> None:
        batches.append(len(images))
        seen.update(images.ravel().tolist())

    changes = {"samples_per_query": 6} if scenario == "multi-stream" else {}
    measured = run_short(scenario, infer, concurrency=concurrency, **changes)

    assert measured.query_count == 1 if scenario == "offline" else measured.query_count >= queries
    assert measured.sample_count >= 70
    assert sum(batches) == measured.sample_count
    assert max(batches) == largest_batch
    assert seen == set(range(5))
    if samples_per_query is not None:
        assert measured.sample_count == samples_per_query * measured.query_count
    assert len(measured.latencies_ns) == (measured.sample_count if scenario == "offline" else measured.query_count)
    # That mean, extremes and percentiles are LoadGen's own is checked as the logs are read; here that they were there.
    summary = latency_statistics(measured.latencies_ns)
    assert 0 < summary.min_ms <= summary.p50_ms <= summary.p90_ms <= summary.p99_ms <= summary.max_ms
    assert measured.samples_per_second > 0


def test_throughputs_are_those_of_the_latencies() -> None:
    single = run_short("single-stream", lambda _: None)
    assert single.samples_per_second == pytest.approx(1e9 * single.sample_count / sum(single.latencies_ns))
    multi = run_short("multi-stream", lambda _: None)
    assert multi.samples_per_second == pytest.approx(1e9 * multi.sample_count / sum(multi.latencies_ns))
    offline = run_short("offline", lambda _: None)
    assert offline.samples_per_second == pytest.approx(1e9 * offline.sample_count / max(offline.latencies_ns))


def test_a_long_enough_single_stream_run_is_valid() -> None:
    measured = run_short("single-stream", lambda _: None)
    assert measured.is_valid
    assert measured.reasons == ()


def test_a_run_too_short_for_its_percentile_is_invalid_and_says_why() -> None:
    settings = settings_for("single-stream", min_queries=10, duration_ms=1)
    turn = threading.Event()
    measured = run_scenario(lambda _: turn.wait(0.005), IMAGES, settings, batch_size=1, expected_latency_ms=100.0)
    assert measured.query_count == 10
    assert not measured.is_valid
    assert any("at least 64 queries" in reason for reason in measured.reasons)


def test_a_run_that_uses_up_its_queries_is_invalid_and_says_why() -> None:
    # Answers come far sooner than LoadGen was told, so it prepares too few queries for the duration.
    settings = settings_for("single-stream", min_queries=70, duration_ms=60_000)
    measured = run_scenario(lambda _: None, IMAGES, settings, batch_size=1, expected_latency_ms=600.0)
    assert not measured.is_valid
    assert any("Ran out of generated queries" in reason for reason in measured.reasons)
    assert "the minimum duration was not reached" in measured.reasons


@pytest.mark.parametrize("scenario", ["server", "offline", "multi-stream"])
def test_concurrent_inferences_overlap(scenario: Scenario) -> None:
    # The barrier opens only when two inferences are in flight at once; after that nothing waits.
    meeting = threading.Barrier(2)
    met = threading.Event()

    def infer(_: NDArray[np.float32]) -> None:
        if not met.is_set():
            meeting.wait(TIMEOUT_S)
            met.set()

    run_short(scenario, infer, concurrency=2)
    assert met.is_set()


def test_loadgen_is_told_of_one_completion_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two at once may date a query before its last sample: its latency is then too short, and the logs contradict.
    telling = threading.Lock()
    overlaps = 0
    module = loadgen.import_loadgen()
    original = module.QuerySamplesComplete

    def slow(responses: Any) -> None:
        nonlocal overlaps
        if not telling.acquire(blocking=False):
            overlaps += 1
            telling.acquire()
        turn.wait(0.001)
        original(responses)
        telling.release()

    turn = threading.Event()
    monkeypatch.setattr(module, "QuerySamplesComplete", slow)
    measured = run_short("multi-stream", lambda _: None, concurrency=3, samples_per_query=6)
    assert measured.query_count >= 70
    assert overlaps == 0


def test_the_server_goes_on_issuing_while_an_inference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    issued = 0
    five_issued = threading.Event()
    original = loadgen._issue

    def counting(*arguments: Any) -> None:
        nonlocal issued
        issued += 1
        original(*arguments)
        if issued == 5:
            five_issued.set()

    monkeypatch.setattr(loadgen, "_issue", counting)
    waited: list[bool] = []
    measured = run_short("server", lambda _: waited.append(five_issued.wait(TIMEOUT_S)))
    assert all(waited)
    assert len(waited) == measured.query_count


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server", "offline"])
def test_a_failure_ends_the_run_and_is_raised(scenario: Scenario, concurrency: int) -> None:
    calls = 0

    def infer(_: NDArray[np.float32]) -> None:
        nonlocal calls
        calls += 1
        raise ZeroDivisionError("no answer")

    with pytest.raises(InferenceError, match="ZeroDivisionError: no answer"):
        run_short(scenario, infer, concurrency=concurrency)
    # Once it is known, what is still queued is not tried; each thread may have had one in hand.
    assert 1 <= calls <= concurrency


def test_an_error_of_ours_is_raised_as_it_is() -> None:
    error = EngineError("stage 'join' failed", remedy="build again")

    def infer(_: NDArray[np.float32]) -> None:
        raise error

    with pytest.raises(ParNetError) as caught:
        run_short("single-stream", infer)
    assert caught.value is error


def test_no_thread_is_left_behind() -> None:
    before = threading.active_count()
    run_short("server", lambda _: None, concurrency=4)
    assert threading.active_count() == before
