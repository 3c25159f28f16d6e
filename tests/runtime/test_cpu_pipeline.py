"""The processor's pipeline: order, concurrency, failures and interrupts, with stages that are Python functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import (
    BatchRange,
    DeviceRecord,
    EngineRecord,
    FileRecord,
    Lane,
    NetworkConfig,
    Parent,
    Plan,
    Preprocessing,
    Stage,
    TensorSpec,
)
from parnet_deploy.errors import EngineError, InferenceError
from parnet_deploy.planning.schedule import schedule
from parnet_deploy.runtime import Session
from parnet_deploy.runtime.cpu import CpuPipeline

MakePlan = Callable[..., Path]
Arrays = Mapping[str, np.ndarray]
IMAGE = np.ones((1, 3, 16, 16), np.float32)
# No test waits this long unless it fails.
PATIENCE_S = 20


def add_up(inputs: Arrays, outputs: Arrays) -> None:
    """Write the sum of each sample's inputs plus one into all outputs."""
    total = sum(array.reshape(array.shape[0], -1)[:, :1] for array in inputs.values()) + 1
    for array in outputs.values():
        array.reshape(array.shape[0], -1)[...] = total


DIAMOND = {"stem": add_up, "left": add_up, "right": add_up, "join": add_up}
# stem = 1 + 1; left = right/conv = right/gate = 3; join = 3 + 3 + 3 + 1.
DIAMOND_ANSWER = 10


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Random DAGs of stages on 1 to 4 lanes of the processor."""
    tensors = {"image": TensorSpec(dtype="float32", shape=(3, 4, 4))}
    stages = []
    count = draw(st.integers(1, 7))
    for index in range(count):
        inputs = tuple(draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True)))
        last = index == count - 1
        outputs = ("logits",) if last else tuple(f"t{index}.{part}" for part in range(draw(st.integers(1, 2))))
        stages.append(Stage(name=f"s{index}", inputs=inputs, outputs=outputs))
        tensors |= {name: TensorSpec(dtype="float32", shape=(5,) if last else (2, 3)) for name in outputs}
    lanes = [Lane(device="cpu", stream=stream) for stream in range(draw(st.integers(1, 4)))]
    placement = {stage.name: draw(st.sampled_from(lanes)) for stage in stages}
    empty = FileRecord(name="engine.null", sha256="0" * 64, size_bytes=0)
    return Plan(
        name="random",
        parent=Parent(kind="bundle", name="random", sha256="0" * 64),
        form="fused",
        network=NetworkConfig(stem=(4,), planes=(4,), num_blocks=(1,), last_planes=4, num_classes=5),
        precision="fp32",
        partition="random",
        batch=BatchRange(min=1, opt=1, max=3),
        preprocessing=Preprocessing(input_size=(3, 4, 4)),
        tensors=tensors,
        backend="null",
        backend_version="1",
        devices=(DeviceRecord(device="cpu", name="null", capability="any"),),
        stages=tuple(stages),
        engines=tuple(EngineRecord(stage=stage.name, file=empty) for stage in stages),
        placement=placement,
        schedule=schedule(stages, placement),
    )


def expected_tensors(plan: Plan, images: np.ndarray) -> dict[str, np.ndarray]:
    tensors = {"image": images}
    for stage in plan.stages:
        outputs = {name: np.empty((images.shape[0], *plan.tensors[name].shape), np.float32) for name in stage.outputs}
        add_up({name: tensors[name] for name in stage.inputs}, outputs)
        tensors |= outputs
    return tensors


@settings(deadline=None, max_examples=60)
@given(plans(), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_any_dag_on_any_lanes_gives_what_one_stage_after_another_gives(plan: Plan, batches: list[int]) -> None:
    # Built here and not by a fixture: hypothesis runs the body many times.
    class Engine:
        def bind(self, inputs: Arrays, outputs: Arrays) -> Any:
            return type("Bound", (), {"run": staticmethod(lambda: add_up(inputs, outputs))})

        def close(self) -> None:
            pass

    pipeline = CpuPipeline(plan, {stage.name: Engine() for stage in plan.stages})
    try:
        for round_, batch in enumerate(batches):
            for name in plan.tensors:
                pipeline.view(name, 3)[...] = np.nan
            images = np.arange(batch * 48, dtype=np.float32).reshape(batch, 3, 4, 4) + round_
            pipeline.view("image", batch)[...] = images
            spans = pipeline.profile(batch)
            assert sorted(span.stage for span in spans) == sorted(stage.name for stage in plan.stages)
            for name, expected in expected_tensors(plan, images).items():
                np.testing.assert_array_equal(pipeline.view(name, batch), expected)
    finally:
        pipeline.stop()


def test_independent_stages_run_at_the_same_time(make_plan: MakePlan, python_stages: Any) -> None:
    """Each branch waits until the other has started, so neither order one after the other could end."""
    both = threading.Barrier(2)

    def meet(inputs: Arrays, outputs: Arrays) -> None:
        both.wait(PATIENCE_S)
        add_up(inputs, outputs)

    python_stages({**DIAMOND, "left": meet, "right": meet})
    with Session.open(make_plan("diamond", backend="null")) as session:
        assert (session.infer(IMAGE) == DIAMOND_ANSWER).all()


@pytest.mark.parametrize("late", ["left", "right"])
def test_the_join_waits_for_both_branches(make_plan: MakePlan, python_stages: Any, late: str) -> None:
    early = {"left": "right", "right": "left"}[late]
    early_ended, open_gate, joined = threading.Event(), threading.Event(), threading.Event()

    def end_early(inputs: Arrays, outputs: Arrays) -> None:
        add_up(inputs, outputs)
        early_ended.set()

    def end_late(inputs: Arrays, outputs: Arrays) -> None:
        assert open_gate.wait(PATIENCE_S)
        assert not joined.is_set()
        add_up(inputs, outputs)

    def join(inputs: Arrays, outputs: Arrays) -> None:
        joined.set()
        add_up(inputs, outputs)

    python_stages({"stem": add_up, early: end_early, late: end_late, "join": join})
    with Session.open(make_plan("diamond", backend="null")) as session, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(session.infer, IMAGE)
        assert early_ended.wait(PATIENCE_S)
        assert not joined.is_set()
        open_gate.set()
        assert (answer.result(PATIENCE_S) == DIAMOND_ANSWER).all()


def test_a_plan_of_one_lane_runs_in_the_caller_s_thread(make_plan: MakePlan, python_stages: Any) -> None:
    seen: list[threading.Thread] = []

    def note(inputs: Arrays, outputs: Arrays) -> None:
        seen.append(threading.current_thread())
        add_up(inputs, outputs)

    python_stages({"stem": note, "rest": note, "whole": note, **dict.fromkeys(("left", "right", "join"), note)})
    before = threading.active_count()
    for cut in ("whole", "chain"):
        with Session.open(make_plan(cut, backend="null")) as session:
            assert threading.active_count() == before
            session.infer(IMAGE)
    assert set(seen) == {threading.current_thread()}
    seen.clear()
    with Session.open(make_plan("branches", backend="null")) as session:
        session.infer(IMAGE)
    # The caller serves the lane of the join; the other branch has a thread of its own.
    assert sorted(thread.name for thread in seen) == sorted(2 * [threading.current_thread().name] + ["parnet cpu/1"])


@pytest.mark.parametrize("failing", ["stem", "left", "right", "join"])
def test_a_stage_that_fails_fails_its_request_and_no_other(
    make_plan: MakePlan, python_stages: Any, failing: str
) -> None:
    broken = threading.Event()
    after: list[str] = []

    def fail(inputs: Arrays, outputs: Arrays) -> None:
        if broken.is_set():
            raise ZeroDivisionError("no luck")
        add_up(inputs, outputs)

    def join(inputs: Arrays, outputs: Arrays) -> None:
        after.append("join")
        add_up(inputs, outputs)

    python_stages({**DIAMOND, "join": join, failing: fail})
    with Session.open(make_plan("diamond", backend="null")) as session:
        for _ in range(3):
            broken.set()
            after.clear()
            with pytest.raises(InferenceError, match=f"stage '{failing}' failed: ZeroDivisionError: no luck") as caught:
                session.infer(IMAGE)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert not after
            broken.clear()
            assert (session.infer(IMAGE) == DIAMOND_ANSWER).all()


class LaneEnds(BaseException):
    """What no `except Exception` catches."""


@pytest.mark.parametrize("pipelines", [1, 2])
@pytest.mark.parametrize("error", [SystemExit, LaneEnds, MemoryError])
def test_a_lane_that_dies_fails_its_request_and_is_replaced(
    make_plan: MakePlan, python_stages: Any, error: type[BaseException], pipelines: int
) -> None:
    """The right branch has a thread of its own, which these errors end."""
    broken = threading.Event()

    def right(inputs: Arrays, outputs: Arrays) -> None:
        if broken.is_set():
            raise error("the end")
        add_up(inputs, outputs)

    python_stages({**DIAMOND, "right": right})
    before = threading.active_count()
    with Session.open(make_plan("diamond", backend="null"), pipelines=pipelines) as session:
        for _ in range(2 * pipelines):
            broken.set()
            with pytest.raises(InferenceError, match=f"stage 'right' failed: {error.__name__}: the end"):
                session.infer(IMAGE)
            broken.clear()
            assert (session.infer(IMAGE) == DIAMOND_ANSWER).all()
        ended = [thread for thread in threading.enumerate() if thread.name.startswith("parnet")]
    for thread in ended:
        thread.join(PATIENCE_S)
    assert threading.active_count() == before


def test_a_dead_lane_that_cannot_be_replaced_closes_the_session(
    make_plan: MakePlan, python_stages: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def right(_inputs: Arrays, _outputs: Arrays) -> None:
        raise LaneEnds("the end")

    def create(_executor: object) -> None:
        raise EngineError("no memory left")

    python_stages({**DIAMOND, "right": right})
    with Session.open(make_plan("diamond", backend="null")) as session:
        monkeypatch.setattr("parnet_deploy.runtime.cpu.CpuExecutor.create_pipeline", create)
        with pytest.raises(InferenceError, match="stage 'right' failed: LaneEnds: the end"):
            session.infer(IMAGE)
        with pytest.raises(InferenceError, match="the session is closed: no memory left"):
            session.infer(IMAGE)


def test_two_stages_that_fail_together_report_one(make_plan: MakePlan, python_stages: Any) -> None:
    both = threading.Barrier(2)

    def fail(inputs: Arrays, outputs: Arrays) -> None:  # noqa: ARG001
        both.wait(PATIENCE_S)
        raise EngineError("out of order", remedy="mend it")

    python_stages({**DIAMOND, "left": fail, "right": fail})
    with Session.open(make_plan("diamond", backend="null")) as session:
        for _ in range(5):
            with pytest.raises(InferenceError, match=r"stage '(left|right)' failed: out of order\n  remedy: mend it$"):
                session.infer(IMAGE)


@pytest.mark.parametrize("interrupted", ["stem", "left", "join"])
def test_an_interrupt_passes_through_and_the_session_goes_on(
    make_plan: MakePlan, python_stages: Any, interrupted: str
) -> None:
    """These stages are on the caller's lane, where Ctrl-C arrives; the other lane is in the middle of its work."""
    strike, gate = threading.Event(), threading.Event()

    def interrupt(inputs: Arrays, outputs: Arrays) -> None:
        if strike.is_set():
            raise KeyboardInterrupt
        add_up(inputs, outputs)

    def hold(inputs: Arrays, outputs: Arrays) -> None:
        if interrupted == "left":
            assert gate.wait(PATIENCE_S)
        add_up(inputs, outputs)

    python_stages({**DIAMOND, "right": hold, interrupted: interrupt})
    before = threading.active_count()
    with Session.open(make_plan("diamond", backend="null")) as session:
        for _ in range(3):
            strike.set()
            gate.clear()
            with pytest.raises(KeyboardInterrupt):
                session.infer(IMAGE)
            strike.clear()
            gate.set()
            assert (session.infer(IMAGE) == DIAMOND_ANSWER).all()
        abandoned = [thread for thread in threading.enumerate() if thread.name.startswith("parnet")]
    for thread in abandoned:
        thread.join(PATIENCE_S)
    assert threading.active_count() == before


def test_nothing_of_an_interrupted_request_is_left_for_the_next(make_plan: MakePlan, python_stages: Any) -> None:
    """The other branch ends after the interrupt; its event must not let the next request's join run early."""
    strike, gate, left_ended, right_started, right_ended = (threading.Event() for _ in range(5))

    def left(inputs: Arrays, outputs: Arrays) -> None:
        if strike.is_set():
            assert right_started.wait(PATIENCE_S)
            raise KeyboardInterrupt
        add_up(inputs, outputs)
        left_ended.set()

    def right(inputs: Arrays, outputs: Arrays) -> None:
        right_started.set()
        assert (gate if strike.is_set() else left_ended).wait(PATIENCE_S)
        add_up(inputs, outputs)
        right_ended.set()

    def join(inputs: Arrays, outputs: Arrays) -> None:
        assert right_ended.is_set()
        add_up(inputs, outputs)

    python_stages({"stem": add_up, "left": left, "right": right, "join": join})
    with Session.open(make_plan("diamond", backend="null")) as session:
        for factor in range(20):
            for event in (gate, left_ended, right_started, right_ended):
                event.clear()
            strike.set()
            with pytest.raises(KeyboardInterrupt):
                session.infer(IMAGE)
            gate.set()
            assert right_ended.wait(PATIENCE_S)
            right_ended.clear()
            strike.clear()
            assert (session.infer(IMAGE * factor) == 3 * (factor + 2) + 1).all()


def test_requests_wait_for_a_pipeline_and_no_more_run_than_there_are(make_plan: MakePlan, python_stages: Any) -> None:
    inside, most = 0, 0
    lock = threading.Lock()
    two_inside, gate = threading.Barrier(3), threading.Event()

    def count(inputs: Arrays, outputs: Arrays) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        if not gate.is_set():
            two_inside.wait(PATIENCE_S)
            assert gate.wait(PATIENCE_S)
        add_up(inputs, outputs)
        with lock:
            inside -= 1

    python_stages({"whole": count})
    with (
        Session.open(make_plan("whole", backend="null"), pipelines=2) as session,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = [pool.submit(session.infer, IMAGE * index) for index in range(8)]
        # Both pipelines are in use, and six requests wait or have yet to come.
        two_inside.wait(PATIENCE_S)
        gate.set()
        assert [answer.result(PATIENCE_S)[0, 0] for answer in answers] == [index + 1 for index in range(8)]
    assert most == 2


def test_closing_lets_the_running_request_end_and_refuses_those_that_wait(
    make_plan: MakePlan, python_stages: Any
) -> None:
    started, gate = threading.Event(), threading.Event()

    def hold(inputs: Arrays, outputs: Arrays) -> None:
        started.set()
        assert gate.wait(PATIENCE_S)
        add_up(inputs, outputs)

    python_stages({"whole": hold})
    session = Session.open(make_plan("whole", backend="null"))
    with ThreadPoolExecutor(6) as pool:
        running = pool.submit(session.infer, IMAGE)
        assert started.wait(PATIENCE_S)
        closing = pool.submit(session.close)
        while not session._closed_because:
            assert not closing.done()
        waiting = [pool.submit(session.infer, IMAGE) for _ in range(4)]
        assert not running.done()
        gate.set()
        assert (running.result(PATIENCE_S) == 2).all()
        closing.result(PATIENCE_S)
        for answer in waiting:
            with pytest.raises(InferenceError, match="the session is closed"):
                answer.result(PATIENCE_S)


def test_tensors_between_stages_are_shared_and_not_copied(make_plan: MakePlan, python_stages: Any) -> None:
    addresses: dict[str, set[int]] = {}

    def note(inputs: Arrays, outputs: Arrays) -> None:
        for name, array in {**inputs, **outputs}.items():
            addresses.setdefault(name, set()).add(array.ctypes.data)
        add_up(inputs, outputs)

    python_stages(dict.fromkeys(DIAMOND, note))
    with Session.open(make_plan("diamond", batch=(1, 1, 4), backend="null")) as session:
        for count in (1, 4, 2):
            session.infer(np.repeat(IMAGE, count, axis=0))
    assert sorted(addresses) == ["image", "left", "logits", "right/conv", "right/gate", "stem"]
    assert all(len(found) == 1 for found in addresses.values())


def test_bindings_of_few_batch_sizes_are_kept(make_plan: MakePlan, python_stages: Any) -> None:
    backend = python_stages({"whole": add_up})
    with Session.open(make_plan("whole", batch=(1, 1, 20), backend="null")) as session:
        engine = backend.engines["whole"]
        for _ in range(3):
            for count in range(1, 9):
                session.infer(np.repeat(IMAGE, count, axis=0))
        assert engine.bindings == 8
        session.infer(np.repeat(IMAGE, 9, axis=0))
        session.infer(np.repeat(IMAGE, 2, axis=0))
        assert engine.bindings == 9
        # Batch size 1 was used longest ago, and made room for 9.
        session.infer(IMAGE)
        assert engine.bindings == 10


def test_a_warm_up_reaches_every_pipeline(make_plan: MakePlan, python_stages: Any) -> None:
    sizes: list[int] = []

    def note(inputs: Arrays, outputs: Arrays) -> None:
        sizes.append(inputs["image"].shape[0])
        assert not inputs["image"].any()
        add_up(inputs, outputs)

    backend = python_stages({"whole": note})
    with Session.open(make_plan("whole", batch=(1, 3, 5), backend="null"), pipelines=4) as session:
        session.warm_up(2)
    assert sizes == [3] * 8
    assert backend.engines["whole"].bindings == 4


def test_a_plan_for_gpus_is_refused(make_plan: MakePlan) -> None:
    with Session.open(make_plan("diamond", backend="null")) as session:
        plan = session.plan
    gpu = {name: Lane(device="cuda:0") for name in plan.placement}
    moved = plan.model_copy(update={"placement": gpu, "schedule": schedule(plan.stages, gpu)})
    with pytest.raises(EngineError, match="runs on the cpu only"):
        CpuPipeline(moved, {})
