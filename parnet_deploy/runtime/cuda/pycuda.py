"""The CUDA driver by pycuda: contexts, streams, memory and copies; the rest by `cuda.bindings` on the same handles.

Known of pycuda 2026.1: `memcpy_peer_async` ignores the contexts that it is given; there are no graphs; an `Event` does
not tell its handle. A `Context` may be pushed in any thread, but what was made in it frees itself only where that very
object is current, and only prints what failed. `detach` of a primary context pushes it, releases it and leaves it
pushed; in another thread than the one that retained it, it just forgets the context, without a call of the driver. Peer
access is enabled by the bindings, which tell what is enabled already.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from threading import Lock, Thread, get_ident
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pycuda.driver as pycuda
from cuda.bindings import driver as cuda

from parnet_deploy.runtime.cuda.cuda_bindings import CudaBindingsDriver
from parnet_deploy.runtime.cuda.driver import driver_error

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda has no name for

P = ParamSpec("P")
T = TypeVar("T")


def _name_of(text: str) -> str:
    """Return the name of the result that cuGetErrorString describes by `text`, or the text."""
    for status in cuda.CUresult:
        code, description = cuda.cuGetErrorString(status)
        if code == cuda.CUresult.CUDA_SUCCESS and description and description.decode() == text:
            return str(status.name)
    return text


def _translated(function: Callable[P, T]) -> Callable[P, T]:
    """Turn pycuda's errors, whose text is `ROUTINE failed: DESCRIPTION[ - REMARK]`, into this tool's."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except pycuda.Error as error:
            routine, _, description = str(error).partition(" failed: ")
            raise driver_error(routine, _name_of(description.partition(" - ")[0])) from error

    return call


@dataclass
class _Retained:
    """A pycuda context with the number of its users and the thread that retained it."""

    context: Any
    device: int
    users: int
    thread: int


def _memory(address: int, size_bytes: int) -> Any:
    return (ctypes.c_char * size_bytes).from_address(address)


class PycudaDriver(CudaBindingsDriver):
    """Adapter onto pycuda. It keeps pycuda's objects by their handles, because they free themselves when dropped."""

    name = "pycuda"

    @_translated
    def __init__(self) -> None:
        super().__init__()
        pycuda.init()
        self._contexts: dict[int, _Retained] = {}
        self._objects: dict[int, Any] = {}
        self._lock = Lock()

    @_translated
    def retain_context(self, device: int) -> int:
        """Return the primary context of a device; all users of it share one object of pycuda."""
        with self._lock:
            for handle, retained in self._contexts.items():
                if retained.device == device:
                    retained.users += 1
                    return handle
            context = pycuda.Device(device).retain_primary_context()
            self._contexts[context.handle] = _Retained(context, device, 1, get_ident())
            return int(context.handle)

    def release_context(self, device: int, context: int) -> None:
        """Give a retained context back."""
        with self._lock:
            retained = self._contexts[context]
            retained.users -= 1
            if retained.users:
                return
            del self._contexts[context]
        if retained.thread == get_ident():
            # Another thread only forgets it: what is current in this one, maybe another library's context, stays so.
            forget = Thread(target=retained.context.detach)
            forget.start()
            forget.join()
        else:
            retained.context.detach()
        super().release_context(device, context)

    @_translated
    def push_context(self, context: int) -> None:
        """Make a context current in the calling thread."""
        self._contexts[context].context.push()

    @_translated
    def pop_context(self, context: int) -> None:
        """Make current what was before."""
        try:
            pycuda.Context.pop()
        except pycuda.Error:
            # The driver may have popped it and reported another error; pycuda then still has it on its own stack.
            if int(cuda.cuCtxGetCurrent()[1]) != context:
                cuda.cuCtxPushCurrent(context)
            pycuda.Context.pop()
            raise

    @_translated
    def create_stream(self) -> int:
        """Create a stream that does not synchronise with the default stream."""
        stream = pycuda.Stream(_NON_BLOCKING)
        self._objects[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        del self._objects[stream]

    @_translated
    def synchronize_stream(self, stream: int) -> None:
        """Wait until a stream has executed everything."""
        self._objects[stream].synchronize()

    @_translated
    def allocate(self, size_bytes: int) -> int:
        """Allocate memory of the current context's device."""
        memory = pycuda.mem_alloc(size_bytes)
        self._objects[int(memory)] = memory
        return int(memory)

    @_translated
    def free(self, address: int) -> None:
        """Free device memory."""
        self._objects.pop(address).free()

    @_translated
    def allocate_pinned(self, size_bytes: int) -> int:
        """Allocate page-locked host memory."""
        array = pycuda.pagelocked_empty(size_bytes, np.uint8, mem_flags=pycuda.host_alloc_flags.PORTABLE)
        address = int(array.ctypes.data)
        self._objects[address] = array.base
        return address

    @_translated
    def free_pinned(self, address: int) -> None:
        """Free page-locked memory."""
        self._objects.pop(address).free()

    @_translated
    def copy_to_device(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy from page-locked memory."""
        pycuda.memcpy_htod_async(target, _memory(source, size_bytes), self._objects[stream])

    @_translated
    def copy_to_host(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy to page-locked memory."""
        pycuda.memcpy_dtoh_async(_memory(target, size_bytes), source, self._objects[stream])
