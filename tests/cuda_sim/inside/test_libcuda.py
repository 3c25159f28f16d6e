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
