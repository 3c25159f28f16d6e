"""The pipeline with split networks; ONNX Runtime, called by the streams as a host function, stands in as the engine."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from parnet_deploy.artifacts.schemas import (
    Copy,
    Lane,
    Plan,
    Record,
    Wait,
)
from parnet_deploy.errors import EngineError, InferenceError
from parnet_deploy.planning.schedule import check_schedule
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.program import Download, PeerCopy, Upload, compile_program
from tests.cuda_sim.inside.host_engine import (
    PARTITIONS,
    HostEngine,
    devices,
    expected,
    images,
    infer,
    make_plan,
    reach,
)

PATIENCE_S = 60


def run_once(plan: Plan, engines: Mapping[str, HostEngine], driver: Driver, seed: int, batch: int = 1) -> np.ndarray:
    pipeline = CudaPipeline(plan, engines, driver)
    try:
        return infer(pipeline, seed, batch)
    finally:
        pipeline.stop()


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


@pytest.mark.parametrize("peers", [True, False])
@pytest.mark.parametrize("partition", ["streams", "shared-stem", "terms-shared-stem"])
def test_every_wait_is_needed(
    sim: Any,
    driver: Driver,
    bundles: Path,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    partition: str,
    peers: bool,
) -> None:
    """Without any single one of them the logits are wrong once some stream is slow."""
    reach(sim, peers)
    plan, engines = make_plan(bundles, partition, devices(3))
    program = compile_program(plan, driver.reaches)
    # The host has waited for the request before this one, so what starts the lanes orders nothing here.
    waits = [op for op in program.operations if isinstance(op, Wait) and op.event != "host start"]
    assert len(waits) >= 2
    for wait in waits:
        mutant = type(program)(tuple(op for op in program.operations if op is not wait), program.home)
        monkeypatch.setattr("parnet_deploy.runtime.cuda.pipeline.compile_program", lambda *_, made=mutant: made)
        pipeline = CudaPipeline(plan, engines, driver)
        try:
            assert any(goes_wrong(sim, pipeline, bundles, held_us) for held_us in (2_000, 10_000, 50_000)), wait
        finally:
            pipeline.stop()
        counts["mutations caught"] += 1
    reach(sim, True)


def goes_wrong(sim: Any, pipeline: CudaPipeline, bundles: Path, held_us: int) -> bool:
    """Tell whether holding up any one of the streams gives wrong logits."""
    sim.trace_start()
    infer(pipeline, 0, 1)
    streams = {stream for _, _, stream, _ in sim.trace_stop()}
    for seed, stream in enumerate(sorted(streams), start=1):
        sim.hold(stream, held_us)
        wrong = infer(pipeline, seed, 1).tobytes() != expected(bundles, seed, 1).tobytes()
        sim.hold(0, 0)
        if wrong:
            return True
    return False


def is_wrong(sim: Any, pipeline: CudaPipeline, bundles: Path, seed: int) -> bool:
    sim.delays(seed, 400)
    return infer(pipeline, seed, 1).tobytes() != expected(bundles, seed, 1).tobytes()


@pytest.mark.parametrize("peers", [True, False])
def test_whatever_call_fails_nothing_is_left(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], peers: bool
) -> None:
    reach(sim, peers)
    plan, engines = make_plan(bundles, "terms", devices(3))
    answer = expected(bundles, 5, 1).tobytes()
    begin = sim.calls()
    assert run_once(plan, engines, driver, 5).tobytes() == answer
    calls = sim.calls() - begin
    for call in range(1, calls + 1):
        sim.delays(call, 50)
        sim.fail_at(call, 719)
        try:
            assert run_once(plan, engines, driver, 5).tobytes() == answer
        except (EngineError, InferenceError) as error:
            what = error.what
        else:
            # Only what fails while it is given up goes unreported: pycuda writes that to stderr.
            what = f"{sim.failed_call()} with CUDA_ERROR_LAUNCH_FAILED" if driver.name == "pycuda" else ""
        failed = sim.failed_call()
        sim.fail_at(0)
        assert failed, f"call {call} of {calls} was not reached"
        assert failed in what
        assert sim.live() == {}, f"after {failed}, call {call}"
        assert sim.faults() == ""
        assert all(engine.bound == 0 for engine in engines.values())
        counts["faults injected"] += 1
    assert run_once(plan, engines, driver, 5).tobytes() == answer
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


def test_without_peer_access_copies_go_through_pinned_memory(sim: Any, driver: Driver, bundles: Path) -> None:
    """Device 0 reaches 1 and not 2."""
    plan, engines = make_plan(bundles, "streams", devices(3))
    sim.set_peer(0, 2, reach=False)
    copies = [command for command in plan.schedule if isinstance(command, Copy)]
    crossing = [copy for copy in copies if "cpu" not in (copy.source, copy.target)]
    staged = [copy for copy in crossing if {copy.source, copy.target} == {"cuda:0", "cuda:2"}]
    assert staged
    assert len(crossing) > len(staged)
    program = compile_program(plan, driver.reaches)
    assert len([op for op in program.operations if isinstance(op, PeerCopy)]) == len(crossing) - len(staged)
    pipeline = CudaPipeline(plan, engines, driver)
    infer(pipeline, 3, 1)
    sim.trace_start()
    assert infer(pipeline, 4, 1).tobytes() == expected(bundles, 4, 1).tobytes()
    found = Counter(name for name, *_ in sim.trace_stop())
    pipeline.stop()
    uploads = sum(copy.source == "cpu" for copy in copies) + len(staged)
    assert (found["peer"], found["h2d"], found["d2h"]) == (len(crossing) - len(staged), uploads, 1 + len(staged))
    assert found["peer-through-host"] == 0
    sim.set_peer(0, 2, reach=True)


def test_a_copy_that_the_target_pulls_comes_down_on_a_stream_of_the_source(
    sim: Any, driver: Driver, bundles: Path
) -> None:
    """A schedule made by hand: check_schedule allows either side to copy."""
    reach(sim, False)
    plan, engines = make_plan(bundles, "streams", devices(2))
    made = next(stage.name for stage in plan.stages if plan.placement[stage.name].device == "cuda:1")
    home = plan.placement["join"]
    pulled = [
        command.model_copy(update={"lane": home})
        if isinstance(command, Copy) and command.source == "cuda:1"
        else command
        for command in plan.schedule
        if not (isinstance(command, Record | Wait) and "@" in command.event)
    ]
    tensors = [c.tensor for c in plan.schedule if isinstance(c, Copy) and c.source == "cuda:1"]
    commands = [c for c in pulled if not (isinstance(c, Copy) and c.tensor in tensors)]
    join = next(index for index, c in enumerate(commands) if c.op == "launch" and c.stage == "join")
    lane = plan.placement[made]
    pull = [Record(lane=lane, event="made"), Wait(lane=home, event="made")]
    pull += [Copy(lane=home, tensor=tensor, source="cuda:1", target="cuda:0") for tensor in tensors]
    commands[join:join] = pull
    check_schedule(commands, plan.stages, plan.placement)
    plan = plan.model_copy(update={"schedule": tuple(commands)})
    operations = compile_program(plan, driver.reaches).operations
    assert {op.lane.device for op in operations if isinstance(op, Download) and op.tensor in tensors} == {"cuda:1"}
    assert {op.lane for op in operations if isinstance(op, Upload) and op.tensor in tensors} == {home}
    pipeline = CudaPipeline(plan, engines, driver)
    for seed in range(20):
        assert not is_wrong(sim, pipeline, bundles, seed)
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


def run_graph(plan: Plan, engines: Mapping[str, HostEngine], driver: Driver, seeds: range) -> list[bytes]:
    """Return the answers to one request after another, of which the first is enqueued and the others are graphs."""
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
        assert (waits == ["record"]) == (seed >= 3 or len(engines) == 1)
    assert len(pipeline.profile(1)) == len(plan.stages) + 2
    pipeline.stop()
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
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str]
) -> None:
    plan, engines = make_plan(bundles, "streams", devices(1, 4))
    answers = [expected(bundles, seed, 1).tobytes() for seed in range(3)]
    begin = sim.calls()
    assert run_graph(plan, engines, driver, range(3)) == answers
    for call in range(1, sim.calls() - begin + 1):
        sim.fail_at(call, 719)
        try:
            assert run_graph(plan, engines, driver, range(3)) == answers
        except (EngineError, InferenceError) as error:
            what = error.what
        else:
            what = f"{sim.failed_call()} with CUDA_ERROR_LAUNCH_FAILED" if driver.name == "pycuda" else ""
        failed = sim.failed_call()
        sim.fail_at(0)
        assert failed
        assert failed in what
        assert sim.live() == {}, f"after {failed}, call {call}"
        assert sim.faults() == ""
        counts["faults injected"] += 1
