"""Pipelines whose driver calls fail: what went wrong is named, and nothing is left behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.errors import EngineError, InferenceError
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from tests.cuda_sim.inside.failing import each_failing_call
from tests.cuda_sim.inside.host_engine import devices, expected, infer, make_plan, reach


@pytest.mark.parametrize("peers", [True, False])
def test_whatever_call_fails_nothing_is_left(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], capfd: pytest.CaptureFixture[str], peers: bool
) -> None:
    reach(sim, peers)
    plan, engines = make_plan(bundles, "terms", devices(3))
    answer = expected(bundles, 5, 1).tobytes()

    def run_once() -> None:
        pipeline = CudaPipeline(plan, engines, driver)
        try:
            assert infer(pipeline, 5, 1).tobytes() == answer
        finally:
            pipeline.stop()

    for call in each_failing_call(sim, driver, capfd, counts, run_once):
        assert all(engine.bound == 0 for engine in engines.values())
        sim.delays(call, 50)
    reach(sim, True)


def test_a_failed_request_leaves_the_pipeline_usable(sim: Any, driver: Driver, bundles: Path) -> None:
    plan, engines = make_plan(bundles, "streams", devices(2))
    pipeline = CudaPipeline(plan, engines, driver)
    infer(pipeline, 1, 2)
    begin = sim.calls()
    infer(pipeline, 1, 2)
    for call in range(1, sim.calls() - begin + 1):
        sim.fail_at(call)
        with pytest.raises(InferenceError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            infer(pipeline, 1, 2)
        assert not pipeline.is_stopped
        assert infer(pipeline, call, 2).tobytes() == expected(bundles, call, 2).tobytes()
    pipeline.stop()
    pipeline.stop()
    assert pipeline.is_stopped
    with pytest.raises(InferenceError, match="is stopped"):
        pipeline.view("logits", 1)
    with pytest.raises(InferenceError, match="is stopped"):
        pipeline.run(1)


def test_a_device_that_is_lost_ends_the_pipeline(sim: Any, driver: Driver, bundles: Path) -> None:
    """Each wait fails from then on, as after an illegal access; what there is is still given back."""
    plan, engines = make_plan(bundles, "streams", devices(2))
    pipeline = CudaPipeline(plan, engines, driver)
    infer(pipeline, 1, 1)
    sim.lose(0)
    with pytest.raises(InferenceError, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
        infer(pipeline, 1, 1)
    assert "start it again" in str(caught.value.remedy)
    assert pipeline.is_stopped
    assert sim.live() == {}


def test_memory_that_runs_out_is_named_and_given_back(sim: Any, driver: Driver, bundles: Path) -> None:
    plan, engines = make_plan(bundles, "shared-stem", devices(2))
    sim.set_free_bytes(40_000)
    with pytest.raises(EngineError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        CudaPipeline(plan, engines, driver)
    assert sim.live() == {}
    sim.set_free_bytes(1 << 30)
