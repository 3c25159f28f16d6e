"""Pipelines that are captured into CUDA graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import driver as cuda

from parnet_deploy.artifacts.schemas import Plan, Wait
from parnet_deploy.errors import EngineError, InferenceError
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.program import compile_program
from tests.cuda_sim.inside.failing import each_failing_call
from tests.cuda_sim.inside.host_engine import (
    PARTITIONS,
    HostBoundEngine,
    HostEngine,
    devices,
    expected,
    infer,
    make_plan,
)


def run_graph(plan: Plan, engines: Mapping[str, HostEngine], driver: Driver, seeds: range) -> list[bytes]:
    """Return the answers to one request after another, of which two are enqueued and the others are graphs."""
    pipeline = CudaPipeline(plan, engines, driver, graphs="always")
    try:
        return [infer(pipeline, seed, 1).tobytes() for seed in seeds]
    finally:
        pipeline.stop()


@pytest.mark.parametrize("partition", PARTITIONS)
def test_graphs_answer_what_single_calls_do(sim: Any, driver: Driver, bundles: Path, partition: str) -> None:
    plan, engines = make_plan(bundles, partition, devices(1, 4))
    pipeline = CudaPipeline(plan, engines, driver, graphs="always")
    for seed in range(40):
        batch = seed % 3 + 1
        sim.trace_start()
        assert infer(pipeline, seed, batch).tobytes() == expected(bundles, seed, batch).tobytes()
        waits = [name for name, *_ in sim.trace_stop() if name in ("wait", "record")]
        # In a graph events are edges; what is left is the record that the host waits for.
        assert (waits == ["record"]) == (seed >= 6 or len(engines) == 1)
    assert len(pipeline.profile(1)) == len(plan.stages) + 2
    pipeline.stop()
    assert sim.live() == {}


def test_engines_that_remember_one_batch_size_are_captured_too(
    sim: Any, driver: Driver, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's convolutions choose algorithms when the batch size changes, which no capture survives."""
    plan, engines = make_plan(bundles, "streams", devices(1, 4))
    remembered: dict[HostEngine, int] = {}
    set_up: Counter[str] = Counter()
    enqueue = HostBoundEngine.enqueue

    def enqueue_or_choose(bound: HostBoundEngine) -> None:
        if remembered.get(bound.engine) != bound.batch:
            status, is_capturing = cuda.cuStreamIsCapturing(bound.stream)
            assert status == cuda.CUresult.CUDA_SUCCESS
            if is_capturing != cuda.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE:
                raise EngineError("algorithms cannot be chosen while the stream is captured")
            set_up[bound.engine.stage.name] += 1
        remembered[bound.engine] = bound.batch
        enqueue(bound)

    monkeypatch.setattr(HostBoundEngine, "enqueue", enqueue_or_choose)
    pipeline = CudaPipeline(plan, engines, driver, graphs="always")
    for seed in range(12):
        batch = seed % 3 + 1
        assert infer(pipeline, seed, batch).tobytes() == expected(bundles, seed, batch).tobytes()
    pipeline.stop()
    # By two requests of each of three sizes; of graphs engines know nothing.
    assert set_up == dict.fromkeys(engines, 6)
    assert sim.live() == {}


def test_plans_over_two_devices_are_not_captured(sim: Any, driver: Driver, bundles: Path) -> None:
    plan, engines = make_plan(bundles, "streams", devices(2))
    assert run_graph(plan, engines, driver, range(4)) == [expected(bundles, seed, 1).tobytes() for seed in range(4)]
    assert sim.live() == {}


def test_every_wait_is_needed_in_graphs(
    driver: Driver, bundles: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the driver refuses the capture, because a stream is not joined, or some order gives other logits."""
    plan, engines = make_plan(bundles, "terms-shared-stem", devices(1, 4))
    program = compile_program(plan, driver.reaches)
    for wait in (op for op in program.operations if isinstance(op, Wait)):
        mutant = type(program)(tuple(op for op in program.operations if op is not wait), program.home)
        monkeypatch.setattr("parnet_deploy.runtime.cuda.pipeline.compile_program", lambda *_, made=mutant: made)
        seeds = range(60)
        refusals: list[InferenceError] = []
        try:
            answers = run_graph(plan, engines, driver, seeds)
        except InferenceError as error:
            refusals.append(error)
        if refusals:
            assert "cannot be captured" in refusals[0].what
            assert "CUDA_ERROR_STREAM_CAPTURE" in refusals[0].what
        else:
            assert answers != [expected(bundles, seed, 1).tobytes() for seed in seeds], wait
        counts["mutations caught"] += 1


def test_whatever_call_fails_nothing_is_left_of_graphs(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], capfd: pytest.CaptureFixture[str]
) -> None:
    plan, engines = make_plan(bundles, "streams", devices(1, 4))
    answers = [expected(bundles, seed, 1).tobytes() for seed in range(3)]

    def run_three() -> None:
        assert run_graph(plan, engines, driver, range(3)) == answers

    for _ in each_failing_call(sim, driver, capfd, counts, run_three):
        assert all(engine.bound == 0 for engine in engines.values())
