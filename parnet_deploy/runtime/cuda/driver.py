"""What an adapter of the CUDA driver offers, and the choice among those that are installed."""

from __future__ import annotations

import ctypes
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

from parnet_deploy.artifacts.cuda_options import CudaAdapter
from parnet_deploy.errors import EngineError, MissingDependencyError


@dataclass(frozen=True)
class DeviceInfo:
    """A GPU as its driver describes it."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


class Driver(Protocol):
    """The driver's functions that this tool needs, on its own handles and addresses.

    Handles (`context`, `stream`, `event`, `graph`) and addresses are integers, the same ones that other libraries of
    the process use. Everything but the first group and `pop_context` needs a current context, and a stream is used
    with its own context current. Every function raises `EngineError` with the driver's name for what went wrong.
    """

    name: str

    def count_devices(self) -> int:
        """Return how many GPUs this process sees."""

    def describe(self, device: int) -> DeviceInfo:
        """Return what a GPU is."""

    def reaches(self, device: int, peer: int) -> bool:
        """Tell whether `device` can address the memory of `peer`."""

    def retain_context(self, device: int) -> int:
        """Return the primary context of a device, which is shared with all libraries of the process."""

    def release_context(self, device: int, context: int) -> None:
        """Give a retained context back."""

    def push_context(self, context: int) -> None:
        """Make a context current in the calling thread."""

    def pop_context(self, context: int) -> None:
        """Make current what was before `context` was pushed."""

    def enable_peer_access(self, peer_context: int) -> None:
        """Let the current context address the memory of another; it is no error if it already can."""

    def create_stream(self) -> int:
        """Create a stream that does not synchronise with the default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream; what is enqueued on it is still executed."""

    def synchronize_stream(self, stream: int) -> None:
        """Wait until a stream has executed everything."""

    def create_event(self, *, timing: bool) -> int:
        """Create an event, with a time stamp or without."""

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""

    def record_event(self, event: int, stream: int) -> None:
        """Record an event behind what is enqueued on a stream, of the context in which the event was created."""

    def wait_event(self, stream: int, event: int) -> None:
        """Hold a stream until the latest record of an event, of any context, is reached."""

    def synchronize_event(self, event: int) -> None:
        """Wait until the latest record of an event is reached."""

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the time between two events that were reached, of one device."""

    def allocate(self, size_bytes: int) -> int:
        """Allocate memory of the current context's device."""

    def free(self, address: int) -> None:
        """Free device memory."""

    def allocate_pinned(self, size_bytes: int) -> int:
        """Allocate page-locked host memory that every context can copy from and to."""

    def free_pinned(self, address: int) -> None:
        """Free page-locked memory."""

    def copy_to_device(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy from page-locked memory."""

    def copy_to_host(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy to page-locked memory."""

    def copy_to_peer(
        self, target: int, target_context: int, source: int, source_context: int, size_bytes: int, stream: int
    ) -> None:
        """Enqueue a copy from one context's device memory to another's."""

    def begin_capture(self, stream: int) -> None:
        """Capture what is enqueued on a stream, and on those that wait for its events, instead of executing it."""

    def end_capture(self, stream: int) -> int:
        """Return what was captured, as a graph that can be launched."""

    def launch_graph(self, graph: int, stream: int) -> None:
        """Enqueue a graph."""

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""


_REMEDIES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "use smaller batches or fewer pipelines, or free memory on the device",
    "CUDA_ERROR_NO_DEVICE": "check nvidia-smi and CUDA_VISIBLE_DEVICES",
    "CUDA_ERROR_INVALID_DEVICE": "check nvidia-smi and CUDA_VISIBLE_DEVICES; build the plan for devices that are there",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "restart the machine after the driver's update",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "the process cannot use the device any more; start it again",
}


def driver_error(call: str, name: str) -> EngineError:
    """Return the error for a driver call that answered `name`, as cuGetErrorName gives it."""
    return EngineError(f"the CUDA driver answered {call} with {name}", remedy=_REMEDIES.get(name))


def no_driver_error(reason: Exception) -> EngineError:
    """Return the error for a machine without an NVIDIA driver, or with one that does not load."""
    return EngineError(f"the CUDA driver does not load: {reason}", remedy="install the NVIDIA driver; check nvidia-smi")


def choose_adapter(adapter: str | None = None) -> CudaAdapter:
    """Return the package that reaches the driver: the one asked for, else pycuda where it is installed.

    Raises:
        MissingDependencyError: the package is not installed.
        EngineError: there is no such adapter.
    """
    if adapter not in (None, "pycuda", "cuda-bindings"):
        raise EngineError(f"{adapter!r} is no way to reach the CUDA driver", remedy="use pycuda or cuda-bindings")
    has_bindings = find_spec("cuda") is not None and find_spec("cuda.bindings") is not None
    if adapter != "cuda-bindings" and find_spec("pycuda") is not None:
        if not has_bindings:
            raise MissingDependencyError("pycuda needs cuda-bindings beside it", remedy="pip install cuda-bindings")
        return "pycuda"
    if adapter == "pycuda":
        raise MissingDependencyError("pycuda is not installed", remedy="pip install 'parnet-deploy[pycuda]'")
    if not has_bindings:
        raise MissingDependencyError(
            "no package that reaches the CUDA driver is installed", remedy="pip install 'parnet-deploy[cuda]'"
        )
    return "cuda-bindings"


def open_driver(adapter: str | None = None) -> Driver:
    """Open the CUDA driver by the adapter that `choose_adapter` returns.

    Raises:
        MissingDependencyError: the package is not installed.
        EngineError: there is no NVIDIA driver, or it cannot be initialised.
    """
    if choose_adapter(adapter) == "pycuda":
        return _open_pycuda()
    from parnet_deploy.runtime.cuda.cuda_bindings import CudaBindingsDriver

    return CudaBindingsDriver()


def _open_pycuda() -> Driver:
    # pycuda is linked to the driver, and is not imported where that is missing or lacks a function of the one it was
    # built for; it warns then, and says less than the error does.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise no_driver_error(error) from error
    try:
        with warnings.catch_warnings(action="ignore"):
            from parnet_deploy.runtime.cuda.pycuda import PycudaDriver
    except ImportError as error:
        raise EngineError(
            f"pycuda does not load with this machine's Python and CUDA driver: {error}",
            remedy="build pycuda again here, or do without it: --cuda-adapter cuda-bindings",
        ) from error
    return PycudaDriver()
