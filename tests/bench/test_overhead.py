"""The twin whose engines do nothing: the same stages, lanes and schedule, and zeros for answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import Lane
from parnet_deploy.bench.overhead import can_be_emptied, harness_settings, write_empty_twin
from parnet_deploy.runtime import Session


def test_a_twin_is_the_plan_without_its_work(layered_plan: Callable[[str, int], Path], tmp_path: Path) -> None:
    plan = open_plan(layered_plan("layers", 2))
    folder = tmp_path / "twin"
    folder.mkdir()
    write_empty_twin(plan, folder)
    twin = open_plan(folder).manifest
    changed = {"backend", "backend_version", "devices", "engines"}
    assert twin.model_dump(exclude=changed) == plan.manifest.model_dump(exclude=changed)
    assert [engine.threads for engine in twin.engines] == [engine.threads for engine in plan.manifest.engines]
    assert twin.backend == "null"
    images = np.ones((1, 3, 16, 16), np.float32)
    with Session.open(folder) as session:
        assert not session.infer(images).any()
    with Session.open(plan.folder) as session:
        assert session.infer(images).all()


def test_stages_and_lanes_are_kept(null_plan: Callable[..., Path], tmp_path: Path) -> None:
    plan = open_plan(null_plan("split", "streams"))
    folder = tmp_path / "twin"
    folder.mkdir()
    write_empty_twin(plan, folder)
    with Session.open(folder) as session:
        spans = session.profile(np.zeros((1, 3, 16, 16), np.float32))[0]
    assert {(span.stage, str(span.lane)) for span in spans} == {
        ("stream1", "cpu/0"),
        ("stream2", "cpu/1"),
        ("join", "cpu/0"),
    }


def test_plans_on_gpus_have_no_twin(null_plan: Callable[..., Path]) -> None:
    plan = open_plan(null_plan("whole")).manifest
    assert can_be_emptied(plan)
    assert not can_be_emptied(plan.model_copy(update={"placement": {"whole": Lane(device="cuda:0")}}))


def test_the_harness_is_measured_by_single_queries() -> None:
    settings = harness_settings()
    assert (settings.scenario, settings.concurrency) == ("single-stream", 1)
