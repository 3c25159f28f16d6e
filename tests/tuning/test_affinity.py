"""Threads stay on the cores that an arranged plan names, as far as the process may use them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.cpu import keep_on_cores, usable_cores
from parnet_deploy.planning.arrangement import Arrangement
from parnet_deploy.runtime import Session
from parnet_deploy.tuning.workshop import write_arranged
from tests.engines import toy_bundles

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no sched_getaffinity")
two_cores = pytest.mark.skipif(len(usable_cores()) < 2, reason="the process may use one core only")
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 16, 16), np.float32)


def affinity_after(cores: set[int]) -> set[int]:
    """Return where a thread of its own may run after it was told to stay on some cores."""
    found: list[set[int]] = []

    def run() -> None:
        keep_on_cores(cores)
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_stays_on_those_cores_that_there_are() -> None:
    last = usable_cores()[-1]
    assert affinity_after({last, 100_000}) == {last}
    assert affinity_after({100_000}) == affinity_after(set()) == set(usable_cores())
    assert os.sched_getaffinity(0) == set(usable_cores())


def arranged(folder: Path, cut: str, backend: str, arrangement: Arrangement) -> Path:
    bundle = toy_bundles.make_bundle(folder / "bundle", cut, "fp32", BatchRange())
    write_arranged(build_plan(bundle, folder / "built", backend=backend), folder / "arranged", arrangement)
    return folder / "arranged"


@two_cores
def test_a_lane_s_thread_stays_on_its_share(tmp_path: Path) -> None:
    pinned = Arrangement(2, "side by side", is_pinned=True)
    with Session.open(arranged(tmp_path, "branches", "null", pinned)) as session:
        session.infer(IMAGE)
        lanes = [thread for thread in threading.enumerate() if thread.name.startswith("parnet cpu/")]
        # Two branches, one of them on the caller's own thread, which stays free.
        (other,) = lanes
        assert other.native_id is not None
        home = {stage.cores for stage in session.plan.engines if stage.stage == "join"}
        assert home == {usable_cores()[:2]}
        assert os.sched_getaffinity(other.native_id) == {usable_cores()[1]}
        assert os.sched_getaffinity(0) == set(usable_cores())


@two_cores
@pytest.mark.parametrize("is_pinned", [True, False])
def test_onnx_runtime_s_threads_stay_on_their_cores(tmp_path: Path, is_pinned: bool) -> None:
    plan = arranged(tmp_path, "whole", "onnxruntime", Arrangement(2, is_pinned=is_pinned))
    before = set(os.listdir("/proc/self/task"))
    with Session.open(plan) as session, Session.open(tmp_path / "built") as built:
        expected = built.infer(IMAGE)
        np.testing.assert_allclose(session.infer(IMAGE), expected, rtol=1e-5, atol=1e-6)
        own = [os.sched_getaffinity(int(task)) for task in set(os.listdir("/proc/self/task")) - before]
    assert ({usable_cores()[1]} in own) == is_pinned
