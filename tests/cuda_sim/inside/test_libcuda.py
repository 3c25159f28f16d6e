"""The driver in host memory, called through cuda.bindings: what later tests rely on it to notice."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from cuda.bindings import driver as cuda

OK = cuda.CUresult.CUDA_SUCCESS
SIZE = 64


def good(result: tuple[Any, ...]) -> Any:
    assert result[0] == OK, result[0]
    return result[1] if len(result) > 1 else None


@pytest.fixture
def context(sim: Any) -> Iterator[Any]:
    good(cuda.cuInit(0))
    handle = good(cuda.cuDevicePrimaryCtxRetain(0))
    good(cuda.cuCtxPushCurrent(handle))
    yield handle
    good(cuda.cuCtxPopCurrent())
    good(cuda.cuDevicePrimaryCtxRelease(0))
    assert sim.live() == {}


def write(address: int, value: int) -> None:
    ctypes.memset(address, value, SIZE)


def read(address: int) -> set[int]:
    return set(ctypes.string_at(address, SIZE))


def upload_and_download(sim: Any, seed: int, *, waits: bool) -> set[int]:
    """Write 7 on one stream and read on another."""
    streams = [good(cuda.cuStreamCreate(1)) for _ in range(2)]
    event = good(cuda.cuEventCreate(2))
    source, target = (good(cuda.cuMemHostAlloc(SIZE, 0)) for _ in range(2))
    device = good(cuda.cuMemAlloc(SIZE))
    write(source, 7)
    sim.delays(seed, 300)
    good(cuda.cuMemcpyHtoDAsync(device, source, SIZE, streams[0]))
    good(cuda.cuEventRecord(event, streams[0]))
    if waits:
        good(cuda.cuStreamWaitEvent(streams[1], event, 0))
    good(cuda.cuMemcpyDtoHAsync(target, device, SIZE, streams[1]))
    for stream in streams:
        good(cuda.cuStreamSynchronize(stream))
    found = read(target)
    good(cuda.cuMemFree(device))
    for address in (source, target):
        good(cuda.cuMemFreeHost(address))
    good(cuda.cuEventDestroy(event))
    for stream in streams:
        good(cuda.cuStreamDestroy(stream))
    return found


@pytest.mark.usefixtures("context")
def test_streams_run_in_any_order_until_an_event_orders_them(sim: Any, counts: Counter[str]) -> None:
    without = {min(upload_and_download(sim, seed, waits=False)) for seed in range(30)}
    # New memory is 0xff, not a number.
    assert without == {7, 0xFF}
    assert {min(upload_and_download(sim, seed, waits=True)) for seed in range(30)} == {7}
    counts["orders seen without a wait"] += len(without)


@pytest.mark.usefixtures("context")
def test_a_copy_beyond_an_allocation_is_refused(sim: Any) -> None:
    stream = good(cuda.cuStreamCreate(1))
    device = good(cuda.cuMemAlloc(SIZE))
    pinned = good(cuda.cuMemHostAlloc(2 * SIZE, 0))
    pageable = ctypes.create_string_buffer(SIZE)
    for source, size in ((pinned, SIZE + 1), (ctypes.addressof(pageable), SIZE)):
        assert cuda.cuMemcpyHtoDAsync(device, source, size, stream)[0] == cuda.CUresult.CUDA_ERROR_INVALID_VALUE
        assert "copy" in sim.faults()
    # As a kernel might: behind the buffer's end.
    ctypes.memset(int(device) + SIZE, 1, 1)
    assert "outside" in sim.faults()
    ctypes.memset(int(device) + SIZE, 0xA5, 1)
    good(cuda.cuMemFree(device))
    ctypes.memset(int(device), 1, 1)
    assert "after it was freed" in sim.faults()
    ctypes.memset(int(device), 0xDD, 1)
    assert cuda.cuMemFree(device)[0] == cuda.CUresult.CUDA_ERROR_INVALID_VALUE
    assert "not allocated" in sim.faults()
    good(cuda.cuMemFreeHost(pinned))
    good(cuda.cuStreamDestroy(stream))


@pytest.mark.usefixtures("context")
def test_memory_runs_out_and_calls_fail_when_told_to(sim: Any) -> None:
    sim.set_free_bytes(100)
    device = good(cuda.cuMemAlloc(SIZE))
    assert cuda.cuMemAlloc(SIZE)[0] == cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    # What gives something up does so even where it fails: nothing else could be done with it.
    sim.fail_at(1, 719)
    assert cuda.cuMemFree(device)[0] == cuda.CUresult.CUDA_ERROR_LAUNCH_FAILED
    assert sim.failed_call() == "cuMemFree"
    sim.set_free_bytes(1 << 30)
    sim.fail_at(2, 719)
    good(cuda.cuMemGetInfo())
    assert cuda.cuStreamCreate(1)[0] == cuda.CUresult.CUDA_ERROR_LAUNCH_FAILED


def test_objects_of_one_context_are_refused_in_another(sim: Any, context: Any) -> None:
    other = good(cuda.cuDevicePrimaryCtxRetain(1))
    assert other != context
    stream = good(cuda.cuStreamCreate(1))
    event = good(cuda.cuEventCreate(2))
    pinned = good(cuda.cuMemHostAlloc(SIZE, 0))
    good(cuda.cuCtxPushCurrent(other))
    device = good(cuda.cuMemAlloc(SIZE))
    assert cuda.cuMemcpyHtoDAsync(device, pinned, SIZE, stream)[0] == cuda.CUresult.CUDA_ERROR_INVALID_CONTEXT
    theirs = good(cuda.cuStreamCreate(1))
    assert cuda.cuEventRecord(event, theirs)[0] == cuda.CUresult.CUDA_ERROR_INVALID_HANDLE
    good(cuda.cuMemFree(device))
    good(cuda.cuStreamDestroy(theirs))
    good(cuda.cuCtxPopCurrent())
    good(cuda.cuDevicePrimaryCtxRelease(1))
    assert cuda.cuCtxPushCurrent(other)[0] == cuda.CUresult.CUDA_ERROR_INVALID_CONTEXT
    good(cuda.cuMemFreeHost(pinned))
    good(cuda.cuEventDestroy(event))
    good(cuda.cuStreamDestroy(stream))
    assert sim.live() == {"contexts": 1, "pushed contexts": 1}


@pytest.mark.usefixtures("context")
def test_a_graph_runs_in_every_order_that_its_events_allow(sim: Any) -> None:
    """Two branches fork from a stream and join it: what they write comes in either order, the join always last."""
    first, second = streams = [good(cuda.cuStreamCreate(1)) for _ in range(2)]
    fork, join = (good(cuda.cuEventCreate(2)) for _ in range(2))
    device = good(cuda.cuMemAlloc(3))
    good(cuda.cuStreamBeginCapture(first, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    good(cuda.cuEventRecord(fork, first))
    good(cuda.cuStreamWaitEvent(second, fork, 0))
    good(cuda.cuMemsetD8Async(device, 1, 1, first))
    good(cuda.cuMemsetD8Async(int(device) + 1, 1, 2, second))
    good(cuda.cuEventRecord(join, second))
    good(cuda.cuStreamWaitEvent(first, join, 0))
    good(cuda.cuMemsetD8Async(device, 1, 3, first))
    graph = good(cuda.cuStreamEndCapture(first))
    assert set(ctypes.string_at(int(device), 3)) == {0xFF}  # captured, not executed
    launchable = good(cuda.cuGraphInstantiate(graph, 0))
    orders = set()
    for _ in range(30):
        sim.trace_start()
        good(cuda.cuGraphLaunch(launchable, first))
        good(cuda.cuStreamSynchronize(first))
        orders.add(tuple(size for _, _, _, size in sim.trace_stop()))
    assert orders == {(1, 2, 3), (2, 1, 3)}
    assert set(ctypes.string_at(int(device), 3)) == {1}
    good(cuda.cuGraphExecDestroy(launchable))
    good(cuda.cuGraphDestroy(graph))
    good(cuda.cuMemFree(device))
    for event in (fork, join):
        good(cuda.cuEventDestroy(event))
    for stream in streams:
        good(cuda.cuStreamDestroy(stream))


@pytest.mark.usefixtures("context")
def test_virtual_time_follows_streams_and_events_alone(sim: Any) -> None:
    """Two streams of known costs, in whatever order they really run; a wait is for the record before it."""
    sim.clock(on=True)
    sim.link("cpu", "cuda:0", 2.0, 1.0)
    sim.link("cuda:0", "cpu", 3.0, 0.5)
    first, second = streams = [good(cuda.cuStreamCreate(1)) for _ in range(2)]
    start, middle, end, late = events = [good(cuda.cuEventCreate(0)) for _ in range(4)]
    pinned, device = good(cuda.cuMemHostAlloc(SIZE, 0)), good(cuda.cuMemAlloc(SIZE))
    done = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    function = cuda.CUhostFn(ctypes.cast(done, ctypes.c_void_p).value)
    up_us, down_us = 2.0 + SIZE / 1e3, 3.0 + SIZE / 0.5e3
    for seed in range(20):
        sim.delays(seed, 300)
        good(cuda.cuEventRecord(start, first))
        good(cuda.cuMemcpyHtoDAsync(device, pinned, SIZE, first))
        good(cuda.cuEventRecord(middle, first))
        good(cuda.cuStreamWaitEvent(second, middle, 0))
        # The wait is for the record above, not for the ones that follow.
        sim.next_host(1000.0)
        good(cuda.cuLaunchHostFunc(first, function, 0))
        good(cuda.cuEventRecord(middle, first))
        good(cuda.cuMemcpyDtoHAsync(pinned, device, SIZE, second))
        # The cost was for one function only.
        good(cuda.cuLaunchHostFunc(second, function, 0))
        good(cuda.cuEventRecord(end, second))
        good(cuda.cuStreamWaitEvent(first, end, 0))
        good(cuda.cuEventRecord(late, first))
        good(cuda.cuEventSynchronize(late))
        elapsed_us = [1e3 * good(cuda.cuEventElapsedTime(start, event)) for event in (middle, end, late)]
        assert elapsed_us == pytest.approx([up_us + 1000, up_us + down_us, up_us + 1000], rel=1e-6)
        good(cuda.cuStreamWaitEvent(second, late, 0))
    good(cuda.cuStreamSynchronize(second))
    good(cuda.cuMemFree(device))
    good(cuda.cuMemFreeHost(pinned))
    for event in events:
        good(cuda.cuEventDestroy(event))
    for stream in streams:
        good(cuda.cuStreamDestroy(stream))


@pytest.mark.usefixtures("context")
def test_a_graphs_branches_take_the_time_of_the_longer(sim: Any) -> None:
    """Nodes are executed one at a time, in any order; in virtual time branches run side by side."""
    sim.clock(on=True)
    first, second = streams = [good(cuda.cuStreamCreate(1)) for _ in range(2)]
    fork, join = (good(cuda.cuEventCreate(2)) for _ in range(2))
    start, end = (good(cuda.cuEventCreate(0)) for _ in range(2))
    done = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    function = cuda.CUhostFn(ctypes.cast(done, ctypes.c_void_p).value)

    def launch(stream: Any, cost_us: float) -> None:
        sim.next_host(cost_us)
        good(cuda.cuLaunchHostFunc(stream, function, 0))

    good(cuda.cuStreamBeginCapture(first, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
    launch(first, 1.0)
    good(cuda.cuEventRecord(fork, first))
    good(cuda.cuStreamWaitEvent(second, fork, 0))
    launch(first, 10.0)
    launch(second, 20.0)
    launch(second, 30.0)
    good(cuda.cuEventRecord(join, second))
    good(cuda.cuStreamWaitEvent(first, join, 0))
    launch(first, 100.0)
    graph = good(cuda.cuStreamEndCapture(first))
    launchable = good(cuda.cuGraphInstantiate(graph, 0))
    for _ in range(20):
        good(cuda.cuEventRecord(start, first))
        good(cuda.cuGraphLaunch(launchable, first))
        good(cuda.cuEventRecord(end, first))
        good(cuda.cuEventSynchronize(end))
        assert 1e3 * good(cuda.cuEventElapsedTime(start, end)) == pytest.approx(151.0, rel=1e-6)
    good(cuda.cuGraphExecDestroy(launchable))
    good(cuda.cuGraphDestroy(graph))
    for event in (fork, join, start, end):
        good(cuda.cuEventDestroy(event))
    for stream in streams:
        good(cuda.cuStreamDestroy(stream))


@pytest.mark.usefixtures("context")
def test_host_functions_run_in_the_streams_order() -> None:
    stream = good(cuda.cuStreamCreate(1))
    seen: list[int] = []
    # The driver passes the pointer on as it is, here a number.
    note = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(data or 0))
    address = ctypes.cast(note, ctypes.c_void_p).value
    for number in range(5):
        good(cuda.cuLaunchHostFunc(stream, cuda.CUhostFn(address), number))
    good(cuda.cuStreamSynchronize(stream))
    assert seen == [0, 1, 2, 3, 4]
    good(cuda.cuStreamDestroy(stream))
