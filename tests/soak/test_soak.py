"""A short soak of toy plans: every answer the first one's, and nothing left behind. The long one watches the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.engines import build_plan
from tests.engines import toy_bundles
from tests.soak.__main__ import faults_of
from tests.soak.soak import OPEN_EVERY, REFUSE_EVERY, Held, Soak, soak

COUNT = 1_500
CUTS = ("whole", "diamond", "branches")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads and files in /proc")
def test_sessions_answer_alike_and_leave_nothing_behind(tmp_path: Path) -> None:
    plans = []
    for cut in CUTS:
        bundle = toy_bundles.make_bundle(tmp_path / cut, cut, "fp32", BatchRange(min=1, opt=1, max=3))
        plans.append(build_plan(bundle, tmp_path / f"plan-{cut}", threads=2))
    result = soak(plans, COUNT, threads=8)
    # How much memory so short a run takes says nothing.
    assert faults_of(result, COUNT, max_growth=float("inf")) == []
    assert result.opened == COUNT // OPEN_EVERY
    assert result.refused == -(-COUNT // REFUSE_EVERY)
    assert len(result.curve) == 100
    assert result.most_threads > result.before.threads


def result_with(**changes: object) -> Soak:
    """Return a soak without fault, but for some changes."""
    before = Held(100, 3, 5)
    values = {"before": before, "after": before, "inferences": 10, "curve": [90] * 20 + [100] * 80}
    return Soak(**{**values, **changes})  # type: ignore[arg-type]


def test_faults_are_told_apart() -> None:
    assert faults_of(result_with(), 10) == []
    assert faults_of(result_with(), 11) == ["10 inferences, not 11"]
    assert faults_of(result_with(wrong=2), 10) == ["2 answers were not the first ones"]
    assert faults_of(result_with(after=Held(100, 4, 5)), 10) == ["1 threads left"]
    assert faults_of(result_with(after=Held(100, 3, 7)), 10) == ["2 files left open"]
    leaking = [100 + 0.05 * index for index in range(100)]
    assert faults_of(result_with(curve=leaking), 10) == ["memory grew by 3.5%, more than 2%"]
