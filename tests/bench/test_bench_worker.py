"""The process of one contender, run here over the null backend, which answers zeros."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import BatchRange, Lane
from parnet_deploy.bench import worker
from parnet_deploy.bench.closed_loop import LoopMeasurement
from parnet_deploy.bench.machine import peak_memory_bytes
from parnet_deploy.bench.protocol import RoundRequest, RoundResult, SweepRequest, SweepResult
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.statistics import latency_statistics
from parnet_deploy.planning.timeline import Span

NullPlan = Callable[..., Path]


def request_for(plan: Path, result: Path, scenario: str = "single-stream", **settings: Any) -> RoundRequest:
    return RoundRequest(
        plan=str(plan),
        settings=settings_for(scenario, min_queries=70, duration_ms=20, **settings),
        launched_ns=time.monotonic_ns(),
        result_path=str(result),
    )


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server", "offline"])
def test_a_plan_is_measured(null_plan: NullPlan, tmp_path: Path, scenario: str) -> None:
    plan = null_plan("split", "streams", BatchRange(min=1, opt=4, max=8))
    result = worker.measure_round(request_for(plan, tmp_path / "result.json", scenario))
    measured = result.round
    assert measured.latency == latency_statistics(measured.latencies_ns)
    assert measured.sample_count >= 70
    assert measured.cold_start.process_ms >= 0
    assert measured.cold_start.open_ms > 0
    assert measured.cold_start.first_answer_ms > 0
    # The kernel sums up per-core counts, so two readings of the same peak may differ by some pages.
    assert 2**20 < measured.peak_memory_bytes <= peak_memory_bytes() + 2**20
    assert [stage.stage for stage in measured.stages] == ["stream1", "stream2", "join"]
    # Medians of several inferences may fall out of step; the timeline is one of them.
    spans = {span.stage: span for span in measured.timeline}
    ready_ms = max(spans["stream1"].end_ms, spans["stream2"].end_ms)
    assert spans["join"].start_ms == pytest.approx(ready_ms + spans["join"].wait_ms)
    assert spans["stream1"].wait_ms == spans["stream1"].start_ms
    assert all(stage.lane_busy_ms <= stage.wait_ms for stage in (*measured.stages, *measured.timeline))
    assert (result.settings.target_qps is not None) == (scenario == "server")


def test_a_plan_of_large_batches_only_is_measured(null_plan: NullPlan, tmp_path: Path) -> None:
    plan = null_plan("batched", "whole", BatchRange(min=4, opt=4, max=4))
    result = worker.measure_round(request_for(plan, tmp_path / "result.json"))
    assert result.round.sample_count == result.round.query_count >= 70


def test_a_point_of_a_sweep_is_measured(null_plan: NullPlan) -> None:
    plan = null_plan("whole", "whole", BatchRange(min=1, opt=4, max=8))
    settings = settings_for("single-stream", duration_ms=20)
    request = SweepRequest(
        plan=str(plan), settings=settings, launched_ns=0, result_path="unused", concurrency=3, batch=8
    )
    point = worker.measure_point(request).point
    assert (point.concurrency, point.batch) == (3, 8)
    assert point.latency.count >= 24
    assert 2**20 < point.peak_memory_bytes <= peak_memory_bytes() + 2**20


def test_a_points_throughput_counts_samples(null_plan: NullPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = LoopMeasurement(latencies_ns=(1_000_000, 3_000_000, 2_000_000), elapsed_ns=4_000_000)
    monkeypatch.setattr(worker, "run_closed_loop", lambda *_, **__: measured)
    settings = settings_for("single-stream")
    plan = str(null_plan("whole", "whole", BatchRange(max=8)))
    request = SweepRequest(plan=plan, settings=settings, launched_ns=0, result_path="unused", concurrency=2, batch=8)
    point = worker.measure_point(request).point
    # Three batches of eight samples in 4 ms.
    assert point.samples_per_second == 6000.0
    assert point.latency == latency_statistics(measured.latencies_ns)


def test_timings_are_in_the_plans_order_with_copies_behind(null_plan: NullPlan) -> None:
    plan = open_plan(null_plan("split", "streams")).manifest
    lane = Lane(device="cuda:0")
    spans = [
        Span(lane, "image to cuda:0", -0.001, 1.0, is_copy=True),
        Span(lane, "stream2", 1.0, 3.0),
        Span(lane, "stream1", 3.0, 4.0),
        Span(lane, "join", 4.0, 5.0),
        Span(lane, "logits to cpu", 5.0, 5.5, is_copy=True),
    ]
    timings = worker.timings_of(spans, plan)
    assert [(entry.stage, entry.wait_ms, entry.is_copy) for entry in timings] == [
        ("stream1", 2.0, False),
        ("stream2", 0.0, False),
        ("join", 0.0, False),
        ("image to cuda:0", 0.0, True),
        ("logits to cpu", 0.0, True),
    ]
    assert timings[3].start_ms == 0.0


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
    result = RoundResult.model_validate_json((tmp_path / "result.json").read_bytes())
    assert result.round.query_count >= 70


def test_main_writes_a_point(null_plan: NullPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = SweepRequest(
        plan=str(null_plan("whole")),
        settings=settings_for("single-stream", duration_ms=5),
        launched_ns=0,
        result_path=str(tmp_path / "result.json"),
        concurrency=2,
        batch=1,
    )
    monkeypatch.setattr("sys.stdin", io.StringIO(request.model_dump_json()))
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert worker.main() == 0
    assert SweepResult.model_validate_json((tmp_path / "result.json").read_bytes()).point.concurrency == 2


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
