"""The CUDA facade on a real driver, or on the one in host memory where that takes its place.

What needs kernels is in `test_gpu_backends.py`; copies are enough to show memory, order, overlap and graphs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

from parnet_deploy.engines.gpus import list_gpus
from parnet_deploy.errors import EngineError
from parnet_deploy.runtime.cuda.driver import Driver, open_driver
from parnet_deploy.runtime.cuda.links import measure_links
from parnet_deploy.runtime.cuda.objects import Buffer, Context, Event, Graph, PinnedBuffer, Stream, close_contexts

pytestmark = pytest.mark.gpu
IS_SIMULATED = "CUDASIM_DEVICES" in os.environ
LARGE_BYTES = 64 << 20
COUNT = 1 << 16


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def driver(request: pytest.FixtureRequest) -> Driver:
    name: str = request.param
    if not list_gpus():
        pytest.skip("no NVIDIA GPU or driver")
    if find_spec("pycuda" if name == "pycuda" else "cuda.bindings") is None:
        pytest.skip(f"{name} is not installed")
    return open_driver(name)


@pytest.fixture
def context(driver: Driver) -> Iterator[Context]:
    context = Context(driver, 0)
    yield context
    close_contexts([context])


@pytest.fixture
def two_contexts(driver: Driver) -> Iterator[tuple[Context, Context]]:
    if driver.count_devices() < 2:
        pytest.skip("one GPU only")
    contexts = Context(driver, 0), Context(driver, 1)
    yield contexts
    close_contexts(contexts)


def test_devices_are_what_the_driver_says_without_a_package(driver: Driver) -> None:
    for gpu in list_gpus():
        info = driver.describe(gpu.ordinal)
        assert (info.name, "".join(map(str, info.compute_capability))) == (gpu.name, gpu.compute_capability)
        assert info.memory_bytes > 1 << 28
    assert driver.count_devices() == len(list_gpus())


def test_numbers_go_up_and_come_back(context: Context) -> None:
    values = np.random.default_rng(0).standard_normal(COUNT).astype(np.float32)
    with context:
        stream, buffer = Stream(context), Buffer(context, values.nbytes)
        source, target = PinnedBuffer(context, values.nbytes), PinnedBuffer(context, values.nbytes)
        source.array((COUNT,), "float32")[...] = values
        target.array((COUNT,), "float32")[...] = np.nan
        stream.upload(buffer, source, values.nbytes)
        stream.download(target, buffer, values.nbytes)
        stream.synchronize()
    np.testing.assert_array_equal(target.array((COUNT,), "float32"), values)


def test_events_order_streams(context: Context) -> None:
    """The second stream reads what the first has written only if it waits, over and over, in both directions."""
    with context:
        streams = Stream(context), Stream(context)
        events = Event(context), Event(context)
        buffer = Buffer(context, LARGE_BYTES)
        sources = [PinnedBuffer(context, LARGE_BYTES) for _ in range(2)]
        target = PinnedBuffer(context, LARGE_BYTES)
        for number, source in enumerate(sources):
            source.array((LARGE_BYTES,), "uint8")[...] = number + 1
        for turn in range(4 if IS_SIMULATED else 40):
            streams[0].upload(buffer, sources[turn % 2], LARGE_BYTES)
            streams[0].record(events[0])
            streams[1].wait(events[0])
            streams[1].download(target, buffer, LARGE_BYTES)
            streams[1].record(events[1])
            streams[0].wait(events[1])
            events[1].synchronize()
            assert set(target.array((LARGE_BYTES,), "uint8")[::4096].tolist()) == {turn % 2 + 1}


def test_copies_of_two_streams_overlap(context: Context) -> None:
    """Up and down at once, as event times tell: each begins before the other ends."""
    with context:
        up, down = Stream(context), Stream(context)
        base, *marks = (Event(context, timing=True) for _ in range(5))
        buffers = [Buffer(context, LARGE_BYTES) for _ in range(2)]
        pinned = [PinnedBuffer(context, LARGE_BYTES) for _ in range(2)]
        up.record(base)
        down.wait(base)
        up.record(marks[0])
        down.record(marks[2])
        for _ in range(4):
            up.upload(buffers[0], pinned[0], LARGE_BYTES)
            down.download(pinned[1], buffers[1], LARGE_BYTES)
        up.record(marks[1])
        down.record(marks[3])
        for stream in (up, down):
            stream.synchronize()
        up_start, up_end, down_start, down_end = (mark.ms_since(base) for mark in marks)
    assert 0 <= up_start < up_end
    assert 0 <= down_start < down_end
    assert up_start < down_end
    assert down_start < up_end


def test_a_graph_does_what_was_captured_into_it(context: Context) -> None:
    """Two streams, forked and joined by events, launched as one graph with other numbers each time."""
    size = 4 * COUNT
    with context:
        home, side = Stream(context), Stream(context)
        fork, join = Event(context), Event(context)
        first, second = Buffer(context, size), Buffer(context, size)
        source, targets = PinnedBuffer(context, size), [PinnedBuffer(context, size) for _ in range(2)]

        def enqueue() -> None:
            home.upload(first, source, size)
            home.record(fork)
            side.wait(fork)
            side.download(targets[0], first, size)
            home.upload(second, source, size)
            home.download(targets[1], second, size)
            side.record(join)
            home.wait(join)

        graph = Graph.capture(home, enqueue)
        for number in range(5):
            source.array((COUNT,), "float32")[...] = number + 0.5
            graph.launch(home)
            home.synchronize()
            for target in targets:
                assert set(target.array((COUNT,), "float32")[::97].tolist()) == {number + 0.5}


def test_a_capture_that_is_not_joined_is_refused(context: Context) -> None:
    with context:
        home, side, fork = Stream(context), Stream(context), Event(context)
        buffer, pinned = Buffer(context, 64), PinnedBuffer(context, 64)

        def enqueue() -> None:
            home.record(fork)
            side.wait(fork)
            side.upload(buffer, pinned, 64)

        with pytest.raises(EngineError, match="CUDA_ERROR_STREAM_CAPTURE_UNJOINED"):
            Graph.capture(home, enqueue)
        # The streams are usable again.
        side.upload(buffer, pinned, 64)
        side.synchronize()


def test_peers_copy_directly_or_through_the_host(driver: Driver, two_contexts: tuple[Context, Context]) -> None:
    """cuMemcpyPeerAsync gives the right bytes with and without peer access; which of both it is, `doctor` shows."""
    first, second = two_contexts
    values = np.random.default_rng(1).integers(0, 255, COUNT).astype(np.uint8)
    with first:
        if driver.reaches(0, 1):
            driver.enable_peer_access(second.handle)
        stream, there, event = Stream(first), Buffer(first, COUNT), Event(first)
        source = PinnedBuffer(first, COUNT)
        source.array((COUNT,), "uint8")[...] = values
    with second:
        other, here, target = Stream(second), Buffer(second, COUNT), PinnedBuffer(second, COUNT)
    with first:
        stream.upload(there, source, COUNT)
        stream.copy_to_peer(here, there, COUNT)
        stream.record(event)
    with second:
        other.wait(event)
        other.download(target, here, COUNT)
        other.synchronize()
    np.testing.assert_array_equal(target.array((COUNT,), "uint8"), values)


def test_memory_that_is_not_there_is_named(driver: Driver, context: Context) -> None:
    with context, pytest.raises(EngineError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught:
        Buffer(context, 2 * driver.describe(0).memory_bytes)
    assert caught.value.remedy
    with context:
        Buffer(context, 64).close()


def test_threads_share_a_context(context: Context) -> None:
    wrong: list[object] = []

    def copy(seed: int) -> None:
        try:
            values = np.random.default_rng(seed).integers(0, 255, COUNT).astype(np.uint8)
            with context:
                stream, buffer = Stream(context), Buffer(context, COUNT)
                pinned = [PinnedBuffer(context, COUNT) for _ in range(2)]
                pinned[0].array((COUNT,), "uint8")[...] = values
                for _ in range(20):
                    pinned[1].array((COUNT,), "uint8")[...] = 0
                    stream.upload(buffer, pinned[0], COUNT)
                    stream.download(pinned[1], buffer, COUNT)
                    stream.synchronize()
                    if not np.array_equal(pinned[1].array((COUNT,), "uint8"), values):
                        wrong.append(seed)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=copy, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_links_are_measured(driver: Driver) -> None:
    report = measure_links(driver)
    count = driver.count_devices()
    assert len(report.links) == count * (count + 1)
    assert all(link.bandwidth_gb_s > 0.1 and link.latency_us < 1e4 for link in report.links)
