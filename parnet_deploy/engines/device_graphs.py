"""Put an instantiated CUDA graph on a stream, also where the stream is captured into a larger one.

The driver refuses to launch a graph into a capture (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED) and ends the capture for it.
The graph that was instantiated can become a child node of what is captured instead, behind what the stream has captured
so far (docs.nvidia.com/cuda/cuda-driver-api, "Stream Management" and "Graph Management").
"""

from __future__ import annotations

from ctypes import byref, c_int, c_size_t, c_uint, c_uint64, c_void_p

from parnet_deploy.engines.gpus import call_driver

# CUstreamCaptureStatus and CUstreamUpdateCaptureDependencies_flags of the driver API.
_NOT_CAPTURING = 0
_SET_DEPENDENCIES = 1


def enqueue_graph(graph: int, launchable: int, stream: int) -> None:
    """Launch a graph on a stream, whose context is current, or add it to what the stream captures.

    `launchable` is what `graph` was instantiated to; both are handles (CUgraphExec, CUgraph).

    Raises:
        EngineError: the driver refuses.
    """
    status = c_int()
    call_driver("cuStreamIsCapturing", c_void_p(stream), byref(status))
    if status.value == _NOT_CAPTURING:
        call_driver("cuGraphLaunch", c_void_p(launchable), c_void_p(stream))
    else:
        _add_child(graph, stream)


def _add_child(graph: int, stream: int) -> None:
    """Make a graph the next node of the stream's capture."""
    status, identity, count = c_int(), c_uint64(), c_size_t()
    captured, before, node = c_void_p(), c_void_p(), c_void_p()
    call_driver(
        "cuStreamGetCaptureInfo_v2",
        c_void_p(stream),
        *(byref(answer) for answer in (status, identity, captured, before, count)),
    )
    call_driver("cuGraphAddChildGraphNode", byref(node), captured, before, count, c_void_p(graph))
    call_driver(
        "cuStreamUpdateCaptureDependencies", c_void_p(stream), byref(node), c_size_t(1), c_uint(_SET_DEPENDENCIES)
    )
