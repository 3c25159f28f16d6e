"""Pipelines over split networks: the single session's bytes, whatever the placement and the delays."""

from __future__ import annotations

import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from parnet_deploy.artifacts.schemas import Copy, Lane
from parnet_deploy.errors import EngineError
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from tests.cuda_sim.inside.host_engine import PARTITIONS, devices, expected, images, infer, make_plan, reach

PATIENCE_S = 60


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_split_logits_are_the_single_sessions_to_the_byte(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], partition: str, count: int
) -> None:
    for streams in (1, 4):
        plan, engines = make_plan(bundles, partition, devices(count, streams))
        pipeline = CudaPipeline(plan, engines, driver)
        counts["schedules"] += 1
        try:
            for seed in range(6):
                sim.delays(seed, 300)
                batch = seed % 3 + 1
                assert infer(pipeline, seed, batch).tobytes() == expected(bundles, seed, batch).tobytes()
                counts["runs with random delays"] += 1
        finally:
            pipeline.stop()
        assert sim.live() == {}


@pytest.mark.parametrize("peers", [True, False])
def test_many_random_delays_without_a_wrong_byte(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], peers: bool
) -> None:
    """Every run has other images, so that what is left from the run before is wrong."""
    reach(sim, peers)
    plan, engines = make_plan(bundles, "terms-shared-stem", devices(3))
    pipeline = CudaPipeline(plan, engines, driver)
    answers = [expected(bundles, seed, 1).tobytes() for seed in range(25)]
    try:
        for run in range(400):
            sim.delays(run, 150)
            assert infer(pipeline, run % 25, 1).tobytes() == answers[run % 25]
            counts["runs with random delays"] += 1
    finally:
        pipeline.stop()
        reach(sim, True)


def test_requests_of_sixteen_threads_over_three_pipelines(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str]
) -> None:
    plan, engines = make_plan(bundles, "terms", devices(3))
    idle: SimpleQueue[CudaPipeline] = SimpleQueue()
    pipelines = [CudaPipeline(plan, engines, driver) for _ in range(3)]
    for pipeline in pipelines:
        idle.put(pipeline)
    before = sim.live()
    wrong: list[object] = []
    begin = threading.Barrier(16)

    def ask(thread: int) -> None:
        try:
            begin.wait(PATIENCE_S)
            for request in range(4):
                seed, batch = 4 * thread + request, request % 3 + 1
                pipeline = idle.get()
                try:
                    answer = infer(pipeline, seed, batch)
                finally:
                    idle.put(pipeline)
                if answer.tobytes() != expected(bundles, seed, batch).tobytes():
                    wrong.append(seed)
        except BaseException as error:
            wrong.append(error)

    sim.delays(1, 100)
    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert wrong == []
    assert sim.live() == before
    for pipeline in pipelines:
        pipeline.stop()
    counts["concurrent requests"] += 64


def test_tensors_between_stages_can_be_looked_at(sim: Any, driver: Driver, bundles: Path) -> None:
    plan, engines = make_plan(bundles, "shared-stem", devices(2))
    pipeline = CudaPipeline(plan, engines, driver)
    sim.delays(3, 200)
    infer(pipeline, 8, 2)
    tensors = {"image": images(8, 2)}
    for stage in plan.stages:
        session = engines[stage.name].session
        made = session.run(list(stage.outputs), {name: tensors[name] for name in stage.inputs})
        tensors |= dict(zip(stage.outputs, made, strict=True))
        for name in stage.outputs:
            np.testing.assert_array_equal(pipeline.view(name, 2), tensors[name])
    pipeline.stop()


def test_traces_tell_when_each_stage_ran(sim: Any, driver: Driver, bundles: Path) -> None:
    plan, engines = make_plan(bundles, "streams", devices(2))
    pipeline = CudaPipeline(plan, engines, driver)
    for seed in range(3):
        sim.delays(seed, 500)
        pipeline.view("image", 1)[...] = images(seed, 1)
        spans = pipeline.profile(1)
        assert pipeline.view("logits", 1).tobytes() == expected(bundles, seed, 1).tobytes()
        assert sorted(span.stage for span in spans if not span.is_copy) == sorted(s.name for s in plan.stages)
        copies = sorted(f"{c.tensor} to {c.target}" for c in plan.schedule if isinstance(c, Copy))
        assert sorted(span.stage for span in spans if span.is_copy) == copies
        assert all(0 <= span.start_ms <= span.end_ms for span in spans)
        # `join` waits for all others; clocks of devices are compared by way of the host's.
        assert [span.stage for span in spans][-2:] == ["join", "logits to cpu"]
        on_home = [span for span in spans if span.lane == plan.placement["join"]]
        assert all(before.end_ms <= after.start_ms for before, after in pairwise(on_home))
    pipeline.stop()


def test_a_plan_with_stages_on_the_processor_is_refused(sim: Any, driver: Driver, bundles: Path) -> None:
    plan, engines = make_plan(bundles, "streams", (Lane(device="cuda:0"), Lane(device="cpu")))
    with pytest.raises(EngineError, match="GPUs only"):
        CudaPipeline(plan, engines, driver)
    assert sim.live() == {}
