"""The facade over either adapter: it frees everything in order, whatever fails, and leaves no context pushed."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest
from cuda.bindings import driver as cuda

from parnet_deploy.errors import EngineError, MissingDependencyError
from parnet_deploy.runtime.cuda.driver import Driver, open_driver
from parnet_deploy.runtime.cuda.objects import Buffer, Context, Event, PinnedBuffer, Stream, close_contexts
from tests.cuda_sim.inside.failing import each_failing_call

VALUES = np.arange(1000, dtype=np.float32)


def round_trip(driver: Driver) -> np.ndarray:
    """Bring numbers to device 0, on to device 1 and back, with an event between the streams."""
    contexts: list[Context] = []
    try:
        contexts.extend(Context(driver, device) for device in range(2))
        first, second = contexts
        with first:
            up, there, event, source = Stream(first), Buffer(first, 4000), Event(first), PinnedBuffer(first, 4000)
            driver.enable_peer_access(second.handle)
        with second:
            down, here, target = Stream(second), Buffer(second, 4000), PinnedBuffer(second, 4000)
        source.array((1000,), "float32")[...] = VALUES
        with first:
            up.upload(there, source, 4000)
            up.copy_to_peer(here, there, 4000)
            up.record(event)
        with second:
            down.wait(event)
            down.download(target, here, 4000)
            down.synchronize()
        return target.array((10, 100), "float32").copy()
    finally:
        close_contexts(contexts)


def test_numbers_come_back(sim: Any, driver: Driver) -> None:
    for seed in range(20):
        sim.delays(seed, 200)
        sim.trace_start()
        np.testing.assert_array_equal(round_trip(driver), VALUES.reshape(10, 100))
        assert [name for name, *_ in sim.trace_stop() if name not in ("record", "wait")] == ["h2d", "peer", "d2h"]
        assert sim.live() == {}


def test_devices_are_described(sim: Any, driver: Driver) -> None:
    assert driver.count_devices() == 4
    info = driver.describe(3)
    assert (info.name, info.compute_capability, info.memory_bytes) == ("Host Memory GPU", (8, 6), 1 << 30)
    sim.set_peer(0, 2, reach=False)
    assert [driver.reaches(0, peer) for peer in range(4)] == [False, True, False, True]
    sim.set_peer(0, 2, reach=True)


def test_whatever_call_fails_nothing_is_left(
    sim: Any, driver: Driver, counts: Counter[str], capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in each_failing_call(sim, driver, capfd, counts, lambda: round_trip(driver)):
        # And the next one works.
        np.testing.assert_array_equal(round_trip(driver), VALUES.reshape(10, 100))


def test_closing_twice_frees_once_and_in_the_reverse_order(sim: Any, driver: Driver) -> None:
    context = Context(driver, 0)
    with context:
        stream, buffer = Stream(context), Buffer(context, 64)
    buffer.close()
    buffer.close()
    assert sim.live() == {"contexts": 1, "streams": 1}
    context.close()
    context.close()
    stream.close()
    assert sim.live() == {}


def test_an_error_inside_leaves_no_context_pushed(sim: Any, driver: Driver) -> None:
    context = Context(driver, 0)
    with pytest.raises(ZeroDivisionError), context:
        raise ZeroDivisionError
    assert sim.live() == {"contexts": 1}
    sim.set_free_bytes(1000)
    with pytest.raises(EngineError, match="CUDA_ERROR_OUT_OF_MEMORY") as caught, context:
        Buffer(context, 1001)
    sim.set_free_bytes(1 << 30)
    assert "smaller batches" in str(caught.value.remedy)
    context.close()


def test_a_context_is_closed_by_another_thread_than_opened_it(sim: Any, driver: Driver) -> None:
    """And it is shared: the primary context lives until its last user has closed it."""
    mine, kept = Context(driver, 1), Context(driver, 1)
    assert mine.handle == kept.handle
    with mine:
        Buffer(mine, 64), Stream(mine), Event(mine), PinnedBuffer(mine, 64)
    failures: list[BaseException] = []

    def close() -> None:
        try:
            mine.close()
            assert sim.live() == {"contexts": 1}
            kept.close()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert failures == []
    assert sim.live() == {}


def test_a_context_outlives_the_thread_that_opened_it(sim: Any, driver: Driver) -> None:
    """The system gives the names of threads that have ended to new ones."""
    opened: list[Context] = []
    for _ in range(3):
        for step in (lambda: opened.append(Context(driver, 1)), lambda: opened.pop().close()):
            thread = threading.Thread(target=step)
            thread.start()
            thread.join()
        assert sim.live() == {}


@pytest.mark.parametrize("fails", [False, True])
def test_what_another_library_made_current_stays_so(sim: Any, driver: Driver, fails: bool) -> None:
    """Torch and TensorRT have the primary context current in their threads, the same one or another device's."""
    for device in range(2):
        theirs = cuda.cuDevicePrimaryCtxRetain(device)[1]
        cuda.cuCtxSetCurrent(theirs)
        context = Context(driver, 0)
        with context:
            Stream(context), Buffer(context, 64)
            assert int(cuda.cuCtxGetCurrent()[1]) == context.handle
        assert cuda.cuCtxGetCurrent()[1] == theirs
        # Closing makes the context current for each of what it owns, and gives it up all the same where that fails.
        sim.fail_at(1 if fails else 0)
        errors: list[str] = []
        try:
            context.close()
        except EngineError as error:
            errors.append(error.what)
        assert errors == (["the CUDA driver answered cuCtxPushCurrent with CUDA_ERROR_OUT_OF_MEMORY"] if fails else [])
        assert cuda.cuCtxGetCurrent()[1] == theirs
        cuda.cuCtxSetCurrent(0)
        cuda.cuDevicePrimaryCtxRelease(device)


def test_events_tell_the_time_between_them(sim: Any, driver: Driver) -> None:
    context = Context(driver, 0)
    with context:
        stream, start, end = Stream(context), Event(context, timing=True), Event(context, timing=True)
        stream.record(start)
        stream.record(end)
        end.synchronize()
        assert 0 <= end.ms_since(start) < 10_000
    context.close()
    assert sim.live() == {}


def test_an_unknown_adapter_is_refused(sim: Any) -> None:  # noqa: ARG001
    with pytest.raises(EngineError, match="'cupy' is no way"):
        open_driver("cupy")


def test_a_missing_device_is_named(sim: Any, driver: Driver) -> None:  # noqa: ARG001
    with pytest.raises(EngineError, match="CUDA_ERROR_INVALID_DEVICE") as caught:
        Context(driver, 7)
    assert "CUDA_VISIBLE_DEVICES" in str(caught.value.remedy)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parnet_deploy.runtime.cuda.driver.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match="pycuda is not installed"):
        open_driver("pycuda")
    with pytest.raises(MissingDependencyError, match="no package"):
        open_driver()
