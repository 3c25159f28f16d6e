"""Graphs that an engine has of its own: launched by a stream, or part of what the stream is captured into."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cuda.bindings import driver as cuda

from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.artifacts.schemas import DeviceRecord, EngineRecord, FileRecord, Graph, Lane, Plan, Stage
from parnet_deploy.engines.device_graphs import enqueue_graph
from parnet_deploy.engines.gpus import DEVICE_SETUP, current_gpu
from parnet_deploy.errors import EngineError
from parnet_deploy.planning.schedule import schedule
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline

THREAD_LOCAL = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def good(result: tuple[Any, ...]) -> Any:
    """Return a call's value; it must have succeeded."""
    assert result[0] == cuda.CUresult.CUDA_SUCCESS, result[0]
    return result[1] if len(result) == 2 else result[1:]


class Device:
    """Two streams, four bytes of memory, and a graph that writes 2 to the first byte and then 3 to the second."""

    def __init__(self) -> None:
        self.streams = [int(good(cuda.cuStreamCreate(1))) for _ in range(2)]
        self.memory = int(good(cuda.cuMemAlloc(4)))
        self.write(0, 0, count=4)
        good(cuda.cuStreamSynchronize(self.streams[0]))
        self.graph, self.launchable = self.capture(lambda: (self.write(0, 2), self.write(1, 3)))

    def write(self, at: int, value: int, stream: int = 0, count: int = 1) -> None:
        good(cuda.cuMemsetD8Async(self.memory + at, value, count, self.streams[stream]))

    def capture(self, enqueue: Any) -> tuple[int, int]:
        good(cuda.cuStreamBeginCapture(self.streams[0], THREAD_LOCAL))
        enqueue()
        graph = good(cuda.cuStreamEndCapture(self.streams[0]))
        return int(graph), int(good(cuda.cuGraphInstantiate(graph, 0)))

    def run(self, launchable: int) -> bytes:
        good(cuda.cuGraphLaunch(launchable, self.streams[0]))
        return self.read()

    def read(self) -> bytes:
        good(cuda.cuStreamSynchronize(self.streams[0]))
        return ctypes.string_at(self.memory, 4)

    def close(self) -> None:
        self.destroy(self.graph, self.launchable)
        good(cuda.cuMemFree(self.memory))
        for stream in self.streams:
            good(cuda.cuStreamDestroy(stream))

    def destroy(self, graph: int, launchable: int) -> None:
        good(cuda.cuGraphExecDestroy(launchable))
        good(cuda.cuGraphDestroy(graph))


@pytest.fixture
def device(sim: Any) -> Iterator[Device]:
    good(cuda.cuInit(0))
    with current_gpu(0):
        device = Device()
        sim.delays(1, 200)
        yield device
        device.close()


def test_a_graph_is_launched_behind_what_the_stream_has(device: Device) -> None:
    device.write(0, 9)
    enqueue_graph(device.graph, device.launchable, device.streams[0])
    assert device.read() == bytes([2, 3, 0, 0])
    device.write(1, 8)
    enqueue_graph(device.graph, device.launchable, device.streams[0])
    device.write(1, 7)
    assert device.read() == bytes([2, 7, 0, 0])


def test_in_a_capture_it_comes_between_what_was_captured_before_and_after(device: Device, counts: Counter[str]) -> None:
    def schedule() -> None:
        device.write(0, 9, count=2)
        enqueue_graph(device.graph, device.launchable, device.streams[0])
        device.write(1, 7)

    graph, launchable = device.capture(schedule)
    assert device.read() == bytes(4)  # captured, not executed
    for _ in range(20):
        assert device.run(launchable) == bytes([2, 7, 0, 0])
        counts["graphs in captures"] += 1
    device.destroy(graph, launchable)


def test_in_a_capture_over_two_streams_it_keeps_to_the_events(device: Device, counts: Counter[str]) -> None:
    """It runs on the second stream: behind the fork, before the join, in any order with the first stream's own."""
    fork, join = (good(cuda.cuEventCreate(2)) for _ in range(2))
    first, second = device.streams

    def schedule() -> None:
        device.write(0, 9, count=3)
        good(cuda.cuEventRecord(fork, first))
        good(cuda.cuStreamWaitEvent(second, fork, 0))
        enqueue_graph(device.graph, device.launchable, second)
        device.write(2, 5)
        good(cuda.cuEventRecord(join, second))
        good(cuda.cuStreamWaitEvent(first, join, 0))
        device.write(1, 7)

    graph, launchable = device.capture(schedule)
    for _ in range(20):
        assert device.run(launchable) == bytes([2, 7, 5, 0])
        counts["graphs in captures"] += 1
    device.destroy(graph, launchable)
    for event in (fork, join):
        good(cuda.cuEventDestroy(event))


def test_what_is_done_with_the_graph_later_does_not_change_the_schedule(device: Device) -> None:
    other = device.capture(lambda: device.write(3, 4))
    schedule = device.capture(lambda: enqueue_graph(*other, device.streams[0]))
    device.destroy(*other)
    assert device.run(schedule[1]) == bytes([0, 0, 0, 4])
    device.destroy(*schedule)


def test_a_launch_into_a_capture_is_what_the_driver_refuses(device: Device) -> None:
    """So measured on real GPUs: error 900, and the capture is lost."""
    good(cuda.cuStreamBeginCapture(device.streams[0], THREAD_LOCAL))
    refused = cuda.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    assert cuda.cuGraphLaunch(device.launchable, device.streams[0])[0] == refused
    lost = cuda.CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    assert cuda.cuStreamEndCapture(device.streams[0])[0] == lost


def test_an_answer_of_the_driver_is_an_error_that_names_the_call(device: Device, sim: Any) -> None:
    """Each of the calls in turn; outside a capture there are two of them, and inside four."""
    for call, name in enumerate(("cuStreamIsCapturing", "cuGraphLaunch"), start=1):
        sim.fail_at(call, 719)
        with pytest.raises(EngineError, match=f"answered {name} with error 719"):
            enqueue_graph(device.graph, device.launchable, device.streams[0])
    inside = ("cuStreamIsCapturing", "cuStreamGetCaptureInfo", "cuGraphAddChild", "cuStreamUpdateCaptureDependencies")
    good(cuda.cuStreamBeginCapture(device.streams[0], THREAD_LOCAL))
    for call, name in enumerate(inside, start=1):
        sim.fail_at(call, 719)
        with pytest.raises(EngineError, match=f"answered {name}.* with error 719"):
            enqueue_graph(device.graph, device.launchable, device.streams[0])
    # The child whose node did not become the stream's last stays behind, and spoils the capture.
    unjoined = cuda.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNJOINED
    assert cuda.cuStreamEndCapture(device.streams[0])[0] == unjoined


def is_setup_held() -> bool:
    """Tell whether another thread would have to wait for `DEVICE_SETUP`."""

    def is_free() -> bool:
        free = DEVICE_SETUP.acquire(blocking=False)
        if free:
            DEVICE_SETUP.release()
        return free

    with ThreadPoolExecutor(max_workers=1) as pool:
        return not pool.submit(is_free).result()


class Engine:
    """An engine that is a graph of its own, which writes a byte to its output; it notes when the lock is held."""

    def __init__(self) -> None:
        self.held: dict[str, list[bool]] = {"bind": [], "enqueue": [], "close": []}

    def bind_device(self, addresses: Mapping[str, int], batch: int, stream: int) -> Engine:
        self.held["bind"].append(is_setup_held())
        good(cuda.cuStreamBeginCapture(stream, THREAD_LOCAL))
        good(cuda.cuMemsetD8Async(addresses["logits"], 10 + batch, 7 * 4 * batch, stream))
        graph = good(cuda.cuStreamEndCapture(stream))
        self.handles = int(graph), int(good(cuda.cuGraphInstantiate(graph, 0)))
        self.stream = stream
        return self

    def enqueue(self) -> None:
        self.held["enqueue"].append(is_setup_held())
        enqueue_graph(*self.handles, self.stream)

    def close(self) -> None:
        self.held["close"].append(is_setup_held())
        good(cuda.cuGraphExecDestroy(self.handles[1]))
        good(cuda.cuGraphDestroy(self.handles[0]))


@pytest.mark.parametrize("graphs", ["never", "always"])
def test_engines_are_bound_and_schedules_captured_one_at_a_time(
    sim: Any, driver: Driver, bundles: Path, graphs: Any
) -> None:
    """And the engine's graph answers in a captured schedule as it does alone."""
    manifest = open_bundle(bundles / "whole").manifest
    stage = Stage(name="whole", inputs=("image",), outputs=("logits",))
    placement = {"whole": Lane(device="cuda:0")}
    plan = Plan(
        **{name: getattr(manifest, name) for name in Graph.model_fields},
        backend="graphs",
        backend_version="1",
        devices=(DeviceRecord(device="cuda:0", name="", capability=""),),
        stages=(stage,),
        engines=(EngineRecord(stage="whole", file=FileRecord(name="engine", sha256="0" * 64, size_bytes=0)),),
        placement=placement,
        schedule=schedule((stage,), placement),
    )
    engine = Engine()
    pipeline = CudaPipeline(plan, {"whole": engine}, driver, graphs=graphs)
    for _ in range(4):
        pipeline.view("logits", 2)[...] = 0
        pipeline.run(2)
        assert set(pipeline.view("logits", 2).tobytes()) == {12}
    pipeline.stop()
    # Captured once, after the second request, instead of being enqueued by each.
    assert engine.held == {
        "bind": [True],
        "enqueue": [False, False, True] if graphs == "always" else [False] * 4,
        "close": [True],
    }
    assert sim.live() == {}
