"""NVTX ranges of requests and stages, as a tool receives them: the run outside attaches one that writes them down."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from parnet_deploy.artifacts.cuda_options import GraphMode
from parnet_deploy.artifacts.schemas import Launch, Plan
from parnet_deploy.errors import EngineError, InferenceError
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.ranges import NO_RANGES, open_ranges
from tests.cuda_sim.inside.calls import count_calls
from tests.cuda_sim.inside.failing import each_failing_call
from tests.cuda_sim.inside.host_engine import HostBoundEngine, devices, expected, infer, make_plan


class Record(NamedTuple):
    """What a tool is told: the message of a range that begins, or nothing of one that ends."""

    thread: int
    message: str | None


class Records:
    """What was recorded since the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = len(path.read_text()) if path.exists() else 0

    def read(self) -> list[Record]:
        text = self._path.read_text()[self._seen :]
        self._seen += len(text)
        records = []
        for line in text.splitlines():
            thread, what, domain, *message = line.split("\t")
            assert domain == "parnet-deploy"
            assert (what, len(message)) in (("push", 1), ("pop", 0))
            records.append(Record(int(thread), *message or [None]))
        return records

    def messages(self) -> list[str | None]:
        """The records of this thread alone; no other may have made any."""
        records = self.read()
        assert {record.thread for record in records} <= {threading.get_native_id()}
        return [record.message for record in records]


@pytest.fixture
def records() -> Records:
    return Records(Path(os.environ["NVTX_RECORDS"]))


def stages_of(plan: Plan) -> list[str]:
    """The stages in the order in which they are enqueued."""
    return [command.stage for command in plan.schedule if isinstance(command, Launch)]


def nested(outer: str, inner: Sequence[str]) -> list[str | None]:
    return [outer, *(message for name in inner for message in (name, None)), None]


@pytest.mark.parametrize("count", [1, 3])
def test_a_request_is_a_range_around_a_range_for_each_stage(
    driver: Driver, bundles: Path, records: Records, counts: Counter[str], count: int
) -> None:
    plan, engines = make_plan(bundles, "streams", devices(count))
    assert len(stages_of(plan)) == 5
    pipeline = CudaPipeline(plan, engines, driver, ranges=open_ranges(wanted=True))
    assert records.messages() == []
    for batch in (1, 2, 3, 1):
        assert infer(pipeline, batch, batch).tobytes() == expected(bundles, batch, batch).tobytes()
        assert records.messages() == nested(f"{plan.name} batch {batch}", stages_of(plan))
        counts["NVTX ranges compared"] += 6
    pipeline.profile(2)
    assert records.messages() == nested(f"{plan.name} batch 2", stages_of(plan))
    pipeline.stop()
    assert records.messages() == []


@pytest.mark.parametrize("count", [1, 2])
def test_stages_have_no_ranges_in_graphs_but_while_they_are_captured(
    driver: Driver, bundles: Path, records: Records, counts: Counter[str], count: int
) -> None:
    plan, engines = make_plan(bundles, "terms", devices(count, 4))
    pipeline = CudaPipeline(plan, engines, driver, graphs="always", ranges=open_ranges(wanted=True))
    captured = sorted(stages_of(plan))
    for request in range(4):
        infer(pipeline, request, 1)
        messages = records.messages()
        # Captured segment by segment, stages come in another order than they are enqueued in.
        names = [message for message in messages[1:-1] if message is not None]
        assert sorted(names) == sorted(captured * (1, 2, 0, 0)[request])
        assert messages == nested(f"{plan.name} batch 1", names)
        counts["NVTX ranges compared"] += 1 + len(names)
    pipeline.stop()


def test_ranges_end_where_a_stage_fails(
    driver: Driver, bundles: Path, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, engines = make_plan(bundles, "streams", devices(2))
    enqueue = HostBoundEngine.enqueue
    for last, failing in enumerate(stages_of(plan), start=1):

        def fail(engine: HostBoundEngine, failing: str = failing) -> None:
            if engine.engine.stage.name == failing:
                raise EngineError("told to fail")
            enqueue(engine)

        pipeline = CudaPipeline(plan, engines, driver, ranges=open_ranges(wanted=True))
        pipeline.view("image", 2)[...] = 0
        with monkeypatch.context() as patch:
            patch.setattr(HostBoundEngine, "enqueue", fail)
            with pytest.raises(InferenceError, match="told to fail"):
                pipeline.run(2)
        assert records.messages() == nested(f"{plan.name} batch 2", stages_of(plan)[:last])
        assert infer(pipeline, 3, 1).tobytes() == expected(bundles, 3, 1).tobytes()
        assert records.messages() == nested(f"{plan.name} batch 1", stages_of(plan))
        pipeline.stop()


@pytest.mark.parametrize("graphs", ["never", "always"])
def test_ranges_end_whatever_call_fails(
    sim: Any,
    driver: Driver,
    bundles: Path,
    records: Records,
    counts: Counter[str],
    capfd: pytest.CaptureFixture[str],
    graphs: GraphMode,
) -> None:
    plan, engines = make_plan(bundles, "terms", devices(1, 2))

    def run_twice() -> None:
        records.read()
        pipeline = CudaPipeline(plan, engines, driver, graphs=graphs, ranges=open_ranges(wanted=True))
        try:
            for seed in range(2):
                infer(pipeline, seed, 1)
        finally:
            pipeline.stop()

    run_twice()
    whole = records.messages()
    for _ in each_failing_call(sim, driver, capfd, counts, run_twice):
        found = records.messages()
        pushed, depth = 0, 0
        for message in found:
            depth += 1 if message else -1
            pushed += message is not None
            assert 0 <= depth <= 2
        assert depth == 0
        assert pushed <= len(whole) // 2


def test_ranges_nest_in_each_thread_of_its_own(driver: Driver, bundles: Path, records: Records) -> None:
    plan, engines = make_plan(bundles, "streams", devices(2))
    ranges = open_ranges(wanted=True)
    pipelines = [CudaPipeline(plan, engines, driver, ranges=ranges) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda made=pipeline: [infer(made, seed, 1) for seed in range(20)])
        for pipeline in pipelines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(records.read(), key=lambda record: record.thread)  # keeps each thread's order
    by_thread = [[record.message for record in group] for _, group in groupby(found, key=lambda r: r.thread)]
    assert by_thread == [nested(f"{plan.name} batch 1", stages_of(plan)) * 20] * 3
    for pipeline in pipelines:
        pipeline.stop()


def test_nothing_is_recorded_where_ranges_are_not_wanted(driver: Driver, bundles: Path, records: Records) -> None:
    plan, engines = make_plan(bundles, "streams", devices(2))
    calls = {}
    for wanted in (False, True):
        pipeline = CudaPipeline(plan, engines, driver, ranges=open_ranges(wanted=wanted))
        infer(pipeline, 1, 1)
        calls[wanted] = count_calls(lambda made=pipeline: made.run(1))
        assert bool(records.read()) == wanted
        pipeline.stop()
    # The instrument that shows the cost without a tool (test_ranges_without_a_tool.py): a wrapper for each stage.
    assert calls[True] - calls[False] >= len(stages_of(plan))
    assert open_ranges(wanted=False) is NO_RANGES
