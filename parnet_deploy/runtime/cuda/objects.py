"""Contexts, streams, events and memory as objects that are freed in order, also after a failure, also twice."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.errors import EngineError
from parnet_deploy.runtime.base import close_all
from parnet_deploy.runtime.cuda.driver import Driver


def close_contexts(contexts: Sequence[Context]) -> None:
    """Wait for the streams of all contexts, because any may use the memory of others, and then close them."""
    close_all([*(context.close for context in contexts), *(context.synchronize for context in contexts)])


class Context:
    """The primary context of a device, retained; `with context:` makes it current in the calling thread.

    Several threads may use one context at a time, each in its own `with`. What is made in it belongs to it and is freed
    with it, the newest first.
    """

    def __init__(self, driver: Driver, device: int) -> None:
        self.driver = driver
        self.device = device
        self.handle = driver.retain_context(device)
        self._owned: dict[int, Resource] = {}
        self._lock = Lock()
        self._closed = False

    def __enter__(self) -> Self:
        self.driver.push_context(self.handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.driver.pop_context(self.handle)
        except Exception:
            # What went wrong inside says more than that leaving went wrong too.
            if error is None:
                raise

    def close(self) -> None:
        """Free everything that was made in the context and give it back; its streams must be idle.

        Closing twice is fine.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            owned = list(self._owned.values())
        release = partial(self.driver.release_context, self.device, self.handle)
        close_all([release, *(resource.close for resource in owned)])

    def synchronize(self) -> None:
        """Wait until all streams that were made in the context have executed everything."""
        with self._lock:
            streams = [resource for resource in self._owned.values() if isinstance(resource, Stream)]
        close_all([partial(self.call, stream.synchronize) for stream in streams])

    def call(self, function: Callable[..., None], *arguments: int) -> None:
        """Call a function that gives something up, with the context current.

        Where it cannot be made current the function is called all the same, because the driver finds the owner by the
        handle, and nothing is left behind; the error is raised then.
        """
        failures: list[EngineError] = []
        with ExitStack() as stack:
            try:
                stack.enter_context(self)
            except EngineError as error:
                failures.append(error)
            function(*arguments)
        if failures:
            raise failures[0]

    def add(self, resource: Resource) -> None:
        """Own a resource that was made in this context."""
        with self._lock:
            self._owned[id(resource)] = resource

    def discard(self, resource: Resource) -> bool:
        """Own a resource no longer; return whether it was still owned."""
        with self._lock:
            return self._owned.pop(id(resource), None) is not None


class Resource:
    """Something of a context that is given up once."""

    def __init__(self, context: Context, handle: int, destroy: Callable[[int], None]) -> None:
        self.context = context
        self.handle = handle
        self._destroy = destroy
        context.add(self)

    def close(self) -> None:
        """Give it up, with its context current for that. Closing twice is fine."""
        if self.context.discard(self):
            self.context.call(self._destroy, self.handle)


class Event(Resource):
    """A point in a stream that other streams and the host can wait for; made in the current context."""

    def __init__(self, context: Context, *, timing: bool = False) -> None:
        super().__init__(context, context.driver.create_event(timing=timing), context.driver.destroy_event)

    def synchronize(self) -> None:
        """Wait until the latest record is reached."""
        self.context.driver.synchronize_event(self.handle)

    def ms_since(self, start: Event) -> float:
        """Return the time from another event of the device; both must have been reached."""
        return self.context.driver.elapsed_ms(start.handle, self.handle)


class Stream(Resource):
    """An in-order queue of a device; used with its context current."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, context.driver.create_stream(), context.driver.destroy_stream)

    def record(self, event: Event) -> None:
        """Record an event of the same context behind what is enqueued."""
        self.context.driver.record_event(event.handle, self.handle)

    def wait(self, event: Event) -> None:
        """Hold the stream until the latest record of an event, of any context."""
        self.context.driver.wait_event(self.handle, event.handle)

    def synchronize(self) -> None:
        """Wait until everything enqueued has been executed."""
        self.context.driver.synchronize_stream(self.handle)

    def upload(self, target: Buffer, source: PinnedBuffer, size_bytes: int) -> None:
        """Enqueue a copy from pinned memory to the device's."""
        self.context.driver.copy_to_device(target.handle, source.handle, size_bytes, self.handle)

    def download(self, target: PinnedBuffer, source: Buffer, size_bytes: int) -> None:
        """Enqueue a copy from the device's memory to pinned memory."""
        self.context.driver.copy_to_host(target.handle, source.handle, size_bytes, self.handle)

    def copy_to_peer(self, target: Buffer, source: Buffer, size_bytes: int) -> None:
        """Enqueue a copy from one device's memory to another's."""
        contexts = target.context.handle, source.context.handle
        self.context.driver.copy_to_peer(
            target.handle, contexts[0], source.handle, contexts[1], size_bytes, self.handle
        )


class Graph(Resource):
    """What was enqueued on a stream and on those that it was joined with, to be launched as one; made by `capture`."""

    @classmethod
    def capture(cls, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """Capture what `enqueue` puts on `stream`, and on streams that wait for its events and that it waits for."""
        driver = stream.context.driver
        driver.begin_capture(stream.handle)
        try:
            enqueue()
        except BaseException:
            with suppress(EngineError):
                driver.destroy_graph(driver.end_capture(stream.handle))
            raise
        return cls(stream.context, driver.end_capture(stream.handle), driver.destroy_graph)

    def launch(self, stream: Stream) -> None:
        """Enqueue the graph."""
        self.context.driver.launch_graph(self.handle, stream.handle)


class Buffer(Resource):
    """Memory of the current context's device; `handle` is its address."""

    def __init__(self, context: Context, size_bytes: int) -> None:
        super().__init__(context, context.driver.allocate(size_bytes), context.driver.free)
        self.size_bytes = size_bytes


class PinnedBuffer(Resource):
    """Page-locked memory of the host, which every device copies from and to; `handle` is its address."""

    def __init__(self, context: Context, size_bytes: int) -> None:
        super().__init__(context, context.driver.allocate_pinned(size_bytes), context.driver.free_pinned)
        self.size_bytes = size_bytes

    def array(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        """Return the memory as an array, which must not be used once the buffer is closed."""
        memory = (ctypes.c_uint8 * self.size_bytes).from_address(self.handle)
        flat: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype)
        return flat[: math.prod(shape)].reshape(shape)
