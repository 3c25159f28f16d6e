"""The process of one contender, run here over the null backend, which answers zeros."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.bench import worker
from parnet_deploy.bench.machine import peak_memory_bytes
from parnet_deploy.bench.protocol import WorkerRequest, WorkerResult
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.statistics import latency_statistics

NullPlan = Callable[..., Path]


def request_for(plan: Path, result: Path, scenario: str = "single-stream", **settings: Any) -> WorkerRequest:
    return WorkerRequest(
        plan=str(plan),
        settings=settings_for(scenario, min_queries=70, duration_ms=20, **settings),
        launched_ns=time.monotonic_ns(),
        result_path=str(result),
    )


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server", "offline"])
def test_a_plan_is_measured(null_plan: NullPlan, tmp_path: Path, scenario: str) -> None:
    plan = null_plan("split", "streams", BatchRange(min=1, opt=4, max=8))
    result = worker.measure(request_for(plan, tmp_path / "result.json", scenario))
    measured = result.round
    assert measured.latency == latency_statistics(measured.latencies_ns)
    assert measured.sample_count >= 70
    assert measured.cold_start.process_ms >= 0
    assert measured.cold_start.open_ms > 0
    assert measured.cold_start.first_answer_ms > 0
    # The kernel sums up per-core counts, so two readings of the same peak may differ by some pages.
    assert 2**20 < measured.peak_memory_bytes <= peak_memory_bytes() + 2**20
    assert [stage.stage for stage in measured.stages] == ["stream1", "stream2", "join"]
    starts = {stage.stage: stage.start_ms for stage in measured.stages}
    assert starts["join"] >= max(starts["stream1"], starts["stream2"])
    assert (result.settings.target_qps is not None) == (scenario == "server")


def test_a_plan_of_large_batches_only_is_measured(null_plan: NullPlan, tmp_path: Path) -> None:
    plan = null_plan("batched", "whole", BatchRange(min=4, opt=4, max=4))
    result = worker.measure(request_for(plan, tmp_path / "result.json"))
    assert result.round.sample_count == result.round.query_count >= 70


def test_a_cold_start_is_split_at_its_readings() -> None:
    cold_start = worker.cold_start_from(1_000_000, 4_000_000, 9_000_000, 16_000_000)
    assert (cold_start.process_ms, cold_start.open_ms, cold_start.first_answer_ms) == (3.0, 5.0, 7.0)
    assert cold_start.total_ms == 15.0


@pytest.mark.parametrize(
    ("scenario", "batch_size", "expected_ms"),
    # One inference of the batch takes 12 ms; the plan is best at 4; a query of multi-stream has 10 samples.
    [("single-stream", 1, 12.0), ("server", 1, 12.0), ("offline", 4, 3.0), ("multi-stream", 4, 36.0)],
)
def test_what_loadgen_should_expect(scenario: str, batch_size: int, expected_ms: float) -> None:
    samples = {"samples_per_query": 10} if scenario == "multi-stream" else {}
    settings = settings_for(scenario, **samples)
    assert worker.batch_size_of(settings, BatchRange(min=1, opt=4, max=16)) == batch_size
    assert worker.expected_latency_ms(settings, 12.0, batch_size=batch_size) == expected_ms


def test_a_query_smaller_than_the_best_batch_is_one_batch() -> None:
    settings = settings_for("multi-stream", samples_per_query=3)
    assert worker.batch_size_of(settings, BatchRange(min=1, opt=8, max=16)) == 3


def test_main_writes_the_result(null_plan: NullPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_for(null_plan("whole"), tmp_path / "result.json")
    monkeypatch.setattr("sys.stdin", io.StringIO(request.model_dump_json()))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert worker.main() == 0
    result = WorkerResult.model_validate_json((tmp_path / "result.json").read_bytes())
    assert result.round.query_count >= 70


def test_main_names_the_plan_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = request_for(tmp_path / "nowhere", tmp_path / "result.json")
    monkeypatch.setattr("sys.stdin", io.StringIO(request.model_dump_json()))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert worker.main() == 2
    captured = capsys.readouterr()
    assert str(tmp_path / "nowhere") in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "result.json").exists()
