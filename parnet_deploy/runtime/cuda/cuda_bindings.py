"""The CUDA driver by NVIDIA's own bindings, `cuda.bindings.driver`; they give the GIL up in every call."""

from __future__ import annotations

from typing import Any

from cuda.bindings import driver as cuda

from parnet_deploy.runtime.cuda.driver import DeviceInfo, driver_error, no_driver_error

_ATTRIBUTES = cuda.CUdevice_attribute
_SUCCESS = cuda.CUresult.CUDA_SUCCESS
_ALREADY_ENABLED = cuda.CUresult.CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED
_NON_BLOCKING = cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value
_WITHOUT_TIMING = cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING.value
_PORTABLE = cuda.CU_MEMHOSTALLOC_PORTABLE
# Only this thread's calls are looked at for what must not happen in a capture: other pipelines go on.
_CAPTURE_MODE = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


def error_name(status: Any) -> str:
    """Return the driver's name of a result."""
    code, name = cuda.cuGetErrorName(status)
    return name.decode() if code == _SUCCESS and name else f"CUDA_ERROR {int(status)}"


def _check(call: str, status: Any) -> None:
    if status != _SUCCESS:
        raise driver_error(call, error_name(status))


def _value(call: str, result: tuple[Any, Any]) -> Any:
    _check(call, result[0])
    return result[1]


class CudaBindingsDriver:
    """Adapter onto cuda.bindings.driver."""

    name = "cuda-bindings"

    def __init__(self) -> None:
        # Without a driver the bindings raise RuntimeError, and which of their functions does it is not documented.
        try:
            (status,) = cuda.cuInit(0)
        except RuntimeError as error:
            raise no_driver_error(error) from error
        _check("cuInit", status)

    def count_devices(self) -> int:
        """Return how many GPUs this process sees."""
        return int(_value("cuDeviceGetCount", cuda.cuDeviceGetCount()))

    def describe(self, device: int) -> DeviceInfo:
        """Return what a GPU is."""
        handle = self._device(device)
        name = _value("cuDeviceGetName", cuda.cuDeviceGetName(256, handle)).split(b"\0")[0].decode()
        major, minor = (
            int(_value("cuDeviceGetAttribute", cuda.cuDeviceGetAttribute(attribute, handle)))
            for attribute in (
                _ATTRIBUTES.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                _ATTRIBUTES.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        return DeviceInfo(name, (major, minor), int(_value("cuDeviceTotalMem", cuda.cuDeviceTotalMem(handle))))

    def reaches(self, device: int, peer: int) -> bool:
        """Tell whether `device` can address the memory of `peer`."""
        result = cuda.cuDeviceCanAccessPeer(self._device(device), self._device(peer))
        return bool(_value("cuDeviceCanAccessPeer", result))

    def retain_context(self, device: int) -> int:
        """Return the primary context of a device."""
        handle = self._device(device)
        return int(_value("cuDevicePrimaryCtxRetain", cuda.cuDevicePrimaryCtxRetain(handle)))

    def release_context(self, device: int, context: int) -> None:  # noqa: ARG002
        """Give a retained context back."""
        _check("cuDevicePrimaryCtxRelease", *cuda.cuDevicePrimaryCtxRelease(device))

    def push_context(self, context: int) -> None:
        """Make a context current in the calling thread."""
        _check("cuCtxPushCurrent", *cuda.cuCtxPushCurrent(context))

    def pop_context(self, context: int) -> None:  # noqa: ARG002
        """Make current what was before."""
        _value("cuCtxPopCurrent", cuda.cuCtxPopCurrent())

    def enable_peer_access(self, peer_context: int) -> None:
        """Let the current context address the memory of another."""
        (status,) = cuda.cuCtxEnablePeerAccess(peer_context, 0)
        if status != _ALREADY_ENABLED:
            _check("cuCtxEnablePeerAccess", status)

    def create_stream(self) -> int:
        """Create a stream that does not synchronise with the default stream."""
        return int(_value("cuStreamCreate", cuda.cuStreamCreate(_NON_BLOCKING)))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        _check("cuStreamDestroy", *cuda.cuStreamDestroy(stream))

    def synchronize_stream(self, stream: int) -> None:
        """Wait until a stream has executed everything."""
        _check("cuStreamSynchronize", *cuda.cuStreamSynchronize(stream))

    def create_event(self, *, timing: bool) -> int:
        """Create an event, with a time stamp or without."""
        return int(_value("cuEventCreate", cuda.cuEventCreate(0 if timing else _WITHOUT_TIMING)))

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        _check("cuEventDestroy", *cuda.cuEventDestroy(event))

    def record_event(self, event: int, stream: int) -> None:
        """Record an event behind what is enqueued on a stream."""
        _check("cuEventRecord", *cuda.cuEventRecord(event, stream))

    def wait_event(self, stream: int, event: int) -> None:
        """Hold a stream until the latest record of an event is reached."""
        _check("cuStreamWaitEvent", *cuda.cuStreamWaitEvent(stream, event, 0))

    def synchronize_event(self, event: int) -> None:
        """Wait until the latest record of an event is reached."""
        _check("cuEventSynchronize", *cuda.cuEventSynchronize(event))

    def elapsed_ms(self, start: int, end: int) -> float:
        """Return the time between two events that were reached."""
        return float(_value("cuEventElapsedTime", cuda.cuEventElapsedTime(start, end)))

    def allocate(self, size_bytes: int) -> int:
        """Allocate memory of the current context's device."""
        return int(_value("cuMemAlloc", cuda.cuMemAlloc(size_bytes)))

    def free(self, address: int) -> None:
        """Free device memory."""
        _check("cuMemFree", *cuda.cuMemFree(address))

    def allocate_pinned(self, size_bytes: int) -> int:
        """Allocate page-locked host memory."""
        return int(_value("cuMemHostAlloc", cuda.cuMemHostAlloc(size_bytes, _PORTABLE)))

    def free_pinned(self, address: int) -> None:
        """Free page-locked memory."""
        _check("cuMemFreeHost", *cuda.cuMemFreeHost(address))

    def copy_to_device(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy from page-locked memory."""
        _check("cuMemcpyHtoDAsync", *cuda.cuMemcpyHtoDAsync(target, source, size_bytes, stream))

    def copy_to_host(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Enqueue a copy to page-locked memory."""
        _check("cuMemcpyDtoHAsync", *cuda.cuMemcpyDtoHAsync(target, source, size_bytes, stream))

    def copy_to_peer(
        self, target: int, target_context: int, source: int, source_context: int, size_bytes: int, stream: int
    ) -> None:
        """Enqueue a copy from one context's device memory to another's."""
        result = cuda.cuMemcpyPeerAsync(target, target_context, source, source_context, size_bytes, stream)
        _check("cuMemcpyPeerAsync", *result)

    def begin_capture(self, stream: int) -> None:
        """Capture what is enqueued on a stream, and on those that wait for its events."""
        _check("cuStreamBeginCapture", *cuda.cuStreamBeginCapture(stream, _CAPTURE_MODE))

    def end_capture(self, stream: int) -> int:
        """Return what was captured, as a graph that can be launched."""
        graph = _value("cuStreamEndCapture", cuda.cuStreamEndCapture(stream))
        result = cuda.cuGraphInstantiate(graph, 0)
        (destroyed,) = cuda.cuGraphDestroy(graph)
        launchable = int(_value("cuGraphInstantiate", result))
        if destroyed != _SUCCESS:
            cuda.cuGraphExecDestroy(launchable)
        _check("cuGraphDestroy", destroyed)
        return launchable

    def launch_graph(self, graph: int, stream: int) -> None:
        """Enqueue a graph."""
        _check("cuGraphLaunch", *cuda.cuGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph."""
        _check("cuGraphExecDestroy", *cuda.cuGraphExecDestroy(graph))

    def _device(self, ordinal: int) -> Any:
        return _value("cuDeviceGet", cuda.cuDeviceGet(ordinal))
