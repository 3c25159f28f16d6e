"""Sessions on GPUs from end to end: the TensorRT backend builds, loads and binds; what it calls runs ONNX Runtime."""

from __future__ import annotations

import importlib
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from parnet_deploy.artifacts.cuda_options import GraphMode
from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions
from parnet_deploy.errors import EngineError, InferenceError, ParNetError
from parnet_deploy.runtime import CudaOptions, Session
from parnet_deploy.runtime.cuda.driver import Driver

PATIENCE_S = 60


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in for TensorRT; afterwards none of its objects may be alive, and none was given up elsewhere."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "host_tensorrt")
    module = importlib.import_module("tensorrt")
    yield module
    assert +module.alive == Counter()
    assert module.misplaced == []


def build(bundles: Path, partition: str, output: Path, devices: tuple[int, ...] | None = None) -> Path:
    options = BuildOptions(devices=devices, tensorrt=TensorRTOptions(flavour="tensorrt"))
    return build_plan(bundles / partition, output, backend="tensorrt", options=options)


def options_for(driver: Driver, graphs: GraphMode = "auto") -> CudaOptions:
    return CudaOptions(adapter=driver.name, graphs=graphs)  # type: ignore[arg-type]


def images(seed: int, batch: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32)).astype(np.float32)


@cache
def reference(bundles: Path) -> Any:
    opened = open_bundle(bundles / "whole")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(opened.file_of("whole")), options, providers=["CPUExecutionProvider"])


def expected(bundles: Path, seed: int, batch: int) -> bytes:
    """What one session over the whole network answers."""
    logits: np.ndarray = reference(bundles).run(["logits"], {"image": images(seed, batch)})[0]
    return logits.tobytes()


@pytest.mark.parametrize("graphs", ["never", "always"])
@pytest.mark.parametrize("partition", ["whole", "streams", "shared-stem", "terms", "terms-shared-stem"])
@pytest.mark.parametrize("devices", [None, (0,), (2, 0), (0, 1, 2), (3, 1, 0, 2)], ids=str)
def test_every_placement_answers_the_single_sessions_bytes(
    sim: Any,
    driver: Driver,
    trt: Any,
    bundles: Path,
    tmp_path: Path,
    counts: Counter[str],
    partition: str,
    devices: tuple[int, ...] | None,
    graphs: GraphMode,
) -> None:
    plan = build(bundles, partition, tmp_path / "plan", devices)
    with Session.open(plan, cuda=options_for(driver, graphs)) as session:
        used = {lane.device for lane in session.plan.placement.values()}
        assert used <= {f"cuda:{device}" for device in devices or (0,)}
        assert trt.alive["engines"] == len(session.plan.stages)
        for seed in range(9):
            sim.delays(seed, 100)
            batch = seed % 3 + 1
            assert session.infer(images(seed, batch)).tobytes() == expected(bundles, seed, batch)
            counts["runs with random delays"] += 1
        # More than the largest batch, in parts.
        assert session.infer(images(50, 7)).tobytes() == b"".join(
            reference(bundles).run(["logits"], {"image": images(50, 7)[start : start + 3]})[0].tobytes()
            for start in (0, 3, 6)
        )
    assert sim.live() == {}
    counts["sessions"] += 1


@pytest.mark.usefixtures("trt")
@pytest.mark.parametrize("devices", [None, (0, 1, 2)], ids=str)
def test_graphs_hold_the_launches_and_events_join_them(
    sim: Any,
    driver: Driver,
    bundles: Path,
    tmp_path: Path,
    devices: tuple[int, ...] | None,
) -> None:
    """On one device a request is one graph; over several, a graph for each run of launches, with copies between."""
    plan = build(bundles, "streams", tmp_path / "plan", devices)
    with Session.open(plan, cuda=options_for(driver, "always")) as session:
        session.warm_up()
        sim.trace_start()
        session.infer(images(1, 2))
        session.infer(images(2, 2))
        sim.trace_stop()
        sim.trace_start()
        assert session.infer(images(3, 2)).tobytes() == expected(bundles, 3, 2)
        trace = sim.trace_stop()
    launches = [stream for name, _, stream, _ in trace if name == "host"]
    assert len(launches) == 5
    records = [name for name, *_ in trace if name == "record"]
    if devices is None:
        assert len(set(launches)) == 1
        assert records == ["record"]
    else:
        # Four streams and the join on three devices; the join's device runs it behind one of the streams.
        assert len({stream for name, _, stream, _ in trace}) == 3
        assert len(records) > 1
        assert any(name == "peer" for name, *_ in trace)


def test_engines_that_cannot_be_captured_are_enqueued_piece_by_piece(
    sim: Any,
    driver: Driver,
    trt: Any,
    bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(trt.IExecutionContext, "synchronizes", True)
    plan = build(bundles, "terms", tmp_path / "plan", (0, 1, 2))
    with caplog.at_level(logging.WARNING), Session.open(plan, cuda=options_for(driver)) as session:
        for seed in range(6):
            sim.delays(seed, 100)
            assert session.infer(images(seed, 1 + seed % 2)).tobytes() == expected(bundles, seed, 1 + seed % 2)
    assert sorted(record.args[0] for record in caplog.records) == [1, 2]  # type: ignore[index,misc]
    assert "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED" in caplog.messages[0]
    with Session.open(plan, cuda=options_for(driver, "always")) as session:
        session.infer(images(1, 1))
        with pytest.raises(InferenceError, match="cannot be captured into CUDA graphs") as caught:
            session.infer(images(1, 1))
    assert caught.value.remedy == "run without graphs"


@pytest.mark.parametrize("graphs", ["never", "always"])
def test_sixteen_threads_share_three_pipelines(
    sim: Any, driver: Driver, trt: Any, bundles: Path, tmp_path: Path, counts: Counter[str], graphs: GraphMode
) -> None:
    plan = build(bundles, "terms-shared-stem", tmp_path / "plan", (0, 1, 2))
    wrong: list[object] = []
    begin = threading.Barrier(16)
    with Session.open(plan, pipelines=3, cuda=options_for(driver, graphs)) as session:
        session.warm_up()
        before = sim.live()
        sim.delays(1, 100)

        def ask(thread: int) -> None:
            try:
                begin.wait(PATIENCE_S)
                for request in range(6):
                    seed, batch = 6 * thread + request, request % 3 + 1
                    if session.infer(images(seed, batch)).tobytes() != expected(bundles, seed, batch):
                        wrong.append(seed)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert wrong == []
        # Requests wait for a pipeline; nothing grows but what further batch sizes need.
        assert trt.alive["contexts"] == 3 * 3 * len(session.plan.stages)
        grown = Counter(sim.live())
        grown.subtract(before)
        assert set(+grown) <= {"graphs"}
    counts["concurrent requests"] += 96


def test_a_stage_that_cannot_be_enqueued_is_named_and_the_session_goes_on(
    sim: Any, driver: Driver, trt: Any, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = build(bundles, "streams", tmp_path / "plan", (0, 1))
    with Session.open(plan, cuda=options_for(driver, "never")) as session:
        for stage in session.plan.stages:
            monkeypatch.setattr(trt.IExecutionContext, "failing", stage.outputs[0])
            if stage.name == "join":
                monkeypatch.setattr(trt.IExecutionContext, "failing", "logits")
            # The first stage in the schedule that has the tensor, as output or as input, is the one that fails.
            with pytest.raises(InferenceError, match=f"TensorRT cannot enqueue stage '{stage.name}': told to fail"):
                session.infer(images(1, 1))
            monkeypatch.setattr(trt.IExecutionContext, "failing", None)
            assert session.infer(images(2, 1)).tobytes() == expected(bundles, 2, 1)
    assert sim.live() == {}


def test_whatever_call_fails_a_session_leaves_nothing(
    sim: Any, driver: Driver, trt: Any, bundles: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    plan = build(bundles, "streams", tmp_path / "plan", (0, 1, 2))

    def use() -> bool:
        with Session.open(plan, cuda=options_for(driver)) as session:
            return all(session.infer(images(seed, 1)).tobytes() == expected(bundles, seed, 1) for seed in range(3))

    begin = sim.calls()
    assert use()
    calls = sim.calls() - begin
    for call in range(1, calls + 1):
        sim.fail_at(call, 719)
        reported: list[str] = []
        try:
            assert use()
        except ParNetError as error:
            reported.append(error.what)
        failed = sim.failed_call()
        sim.fail_at(0)
        assert failed
        # What fails in a capture is answered by enqueueing piece by piece; everything else is reported.
        assert not reported or "CUDA" in reported[0] or "error 719" in reported[0]
        assert sim.live() == {}, f"after {failed}, call {call} of {calls}"
        assert sim.faults() == ""
        assert +trt.alive == Counter(), f"after {failed}, call {call} of {calls}"
        # A context that cannot be made current is no reason to keep what belongs to it.
        assert trt.misplaced == [] or failed == "cuCtxPushCurrent"
        trt.misplaced.clear()
        counts["faults injected"] += 1


@pytest.mark.usefixtures("trt")
def test_a_lost_device_closes_the_session_and_says_so(
    sim: Any,
    driver: Driver,
    bundles: Path,
    tmp_path: Path,
) -> None:
    plan = build(bundles, "streams", tmp_path / "plan", (0, 1))
    session = Session.open(plan, cuda=options_for(driver))
    session.infer(images(1, 1))
    sim.lose(1)
    with pytest.raises(InferenceError, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
        session.infer(images(1, 1))
    with pytest.raises(InferenceError, match=r"the session is closed: .*CUDA_ERROR_ILLEGAL_ADDRESS"):
        session.infer(images(1, 1))
    session.close()
    session.close()
    assert sim.live() == {}
    with Session.open(plan, cuda=options_for(driver)) as again:
        assert again.infer(images(4, 2)).tobytes() == expected(bundles, 4, 2)


def test_an_engine_that_does_not_load_leaves_nothing(
    sim: Any, driver: Driver, trt: Any, bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = build(bundles, "streams", tmp_path / "plan", (0, 1))
    monkeypatch.setattr(trt, "_MAGIC", b"another version")
    with pytest.raises(EngineError, match=r"TensorRT cannot load stage .*: Serialization assertion") as caught:
        Session.open(plan, cuda=options_for(driver))
    assert "build the plan again" in str(caught.value.remedy)
    assert sim.live() == {}


def test_a_plan_for_another_gpu_is_refused(
    driver: Driver,
    trt: Any,
    bundles: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = build(bundles, "streams", tmp_path / "plan", (0, 1))
    monkeypatch.setattr("parnet_deploy.engines.tensorrt.list_gpus", lambda: ())
    with pytest.raises(EngineError, match="TensorRT finds no GPU here"):
        Session.open(plan, cuda=options_for(driver))
    monkeypatch.undo()
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "host_tensorrt")
    monkeypatch.setattr(trt, "__version__", "10.14.0.0")
    with pytest.raises(EngineError, match=r"built with tensorrt 10\.13\.3\.9, and this is 10\.14\.0\.0"):
        Session.open(plan, cuda=options_for(driver))
