"""torch on a GPU: eager in either layout or compiled, with a CUDA graph or without.

A request goes from the host's memory by way of pinned memory, as ours do. `device_ms` is what events say of it.
"""

from __future__ import annotations

import time
import warnings
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.contenders.base import CannotRunError, Images, Job, Opened
from benchmarks.contenders.cuda_l2 import L2Flush
from benchmarks.networks import create_network

# torch.cuda is only partly annotated.
_cuda: Any = torch.cuda
_WARM_UPS = 10
_TIMED_BY_EVENTS = 30


def prepare(job: Job) -> None:
    """Nothing is kept between runs."""


class _Request:
    """A network on the device with the memory of one request; the network as calls or as a graph between the copies."""

    def __init__(self, job: Job) -> None:
        network: Any = create_network(job.case, job.form).cuda()
        layout = torch.channels_last if job.option("layout") == "channels_last" else torch.contiguous_format
        dtype = torch.float16 if job.option("precision") == "fp16" else torch.float32
        network = network.to(dtype=dtype, memory_format=layout)
        if job.option("compile"):
            warnings.simplefilter("ignore")
            network = torch.compile(network, mode=job.option("compile"))
        self.pinned = torch.from_numpy(job.images()).pin_memory()
        self._image = self.pinned.cuda()

        def answer() -> torch.Tensor:
            return network(self._image.to(dtype=dtype, memory_format=layout)).float()  # type: ignore[no-any-return]

        self._network = answer
        self.stream = _cuda.Stream()
        with torch.inference_mode(), _cuda.stream(self.stream):
            for _ in range(_WARM_UPS):
                self._answer = self._network()
        self.stream.synchronize()
        self.logits = torch.empty_like(self._answer, device="cpu").pin_memory()
        self._graph = self._captured() if job.option("graphs") == "graph" else None

    def _captured(self) -> Any:
        graph = _cuda.CUDAGraph()
        with torch.inference_mode(), _cuda.graph(graph, stream=self.stream):
            self._answer = self._network()
        return graph

    def enqueue(self) -> None:
        """Enqueue the copies and the network on the stream."""
        with torch.inference_mode(), _cuda.stream(self.stream):
            self._image.copy_(self.pinned, non_blocking=True)
            if self._graph is None:
                self._answer = self._network()
            else:
                self._graph.replay()
            self.logits.copy_(self._answer, non_blocking=True)

    def run(self) -> None:
        """Enqueue and wait."""
        self.enqueue()
        self.stream.synchronize()


def open_contender(job: Job) -> Opened:
    """Move the network to the device; raise `CannotRunError` where torch has none."""
    if not torch.cuda.is_available():
        raise CannotRunError("torch sees no CUDA device")
    flush = L2Flush()
    request = _Request(job)
    images = job.images()

    def infer(images: Images) -> NDArray[Any]:
        # Not by torch, whose threads may be slow to wake: this is what our sessions do as well.
        np.copyto(request.pinned.numpy(), images)
        request.run()
        return request.logits.numpy().copy()

    def time_ms() -> float:
        flush()
        begun = time.perf_counter()
        infer(images)
        return (time.perf_counter() - begun) * 1e3

    device_ms = median(_by_events(request, flush) for _ in range(_TIMED_BY_EVENTS))
    details = {"torch": torch.__version__, "l2_bytes": str(flush.l2_bytes)}
    return Opened(infer, time_ms, device_ms, details)


def _by_events(request: _Request, flush: L2Flush) -> float:
    flush()
    start, end = _cuda.Event(enable_timing=True), _cuda.Event(enable_timing=True)
    start.record(request.stream)
    request.enqueue()
    end.record(request.stream)
    end.synchronize()
    return float(start.elapsed_time(end))
