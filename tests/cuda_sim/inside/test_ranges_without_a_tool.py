"""NVTX ranges where no tool is attached, as in every run without Nsight Systems: asked for, they cost not one call."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import nvtx
import pytest

from parnet_deploy.artifacts.cuda_options import GraphMode
from parnet_deploy.errors import MissingDependencyError
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.ranges import NO_RANGES, open_ranges
from tests.cuda_sim.inside.calls import count_calls
from tests.cuda_sim.inside.host_engine import devices, infer, make_plan


def test_ranges_cost_no_call(driver: Driver, bundles: Path, counts: Counter[str]) -> None:
    assert not isinstance(nvtx.get_domain("parnet-deploy"), nvtx.Domain)
    plan, engines = make_plan(bundles, "streams", devices(2))
    graphs: GraphMode
    for graphs in ("never", "always"):
        calls = {}
        for wanted in (False, True):
            pipeline = CudaPipeline(plan, engines, driver, graphs=graphs, ranges=open_ranges(wanted=wanted))
            for seed in range(3):
                infer(pipeline, seed, 1)
            calls[wanted] = [count_calls(lambda made=pipeline: made.run(1)) for _ in range(3)]
            pipeline.stop()
        assert calls[True] == calls[False]
        assert min(calls[True]) > len(plan.stages)
        counts["requests whose calls were counted"] += 6


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", None)
    assert open_ranges(wanted=False) is NO_RANGES
    with pytest.raises(MissingDependencyError, match="NVTX ranges need the package nvtx"):
        open_ranges(wanted=True)
