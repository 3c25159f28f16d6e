"""Execute a plan's schedule on GPUs: a CUDA stream per lane, events for the order, one wait of the host at the end."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from time import perf_counter

from parnet_deploy.artifacts.cuda_options import GraphMode
from parnet_deploy.artifacts.schemas import Lane, Launch, Plan, Record, Wait
from parnet_deploy.engines.base import Array, BoundDeviceEngine, DeviceEngine
from parnet_deploy.engines.gpus import DEVICE_SETUP, device_ordinal
from parnet_deploy.errors import EngineError, InferenceError, ParNetError
from parnet_deploy.planning.timeline import Span
from parnet_deploy.runtime.base import BOUND_BATCH_SIZES, close_all
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.objects import Buffer, Context, Event, Graph, PinnedBuffer, Stream
from parnet_deploy.runtime.cuda.program import (
    Download,
    Operation,
    PeerCopy,
    Program,
    Segment,
    Upload,
    compile_program,
    split_into_segments,
)
from parnet_deploy.runtime.cuda.ranges import NO_RANGES, Ranges
from parnet_deploy.runtime.cuda.timing import Timers

_log = logging.getLogger(__name__)

# Calls that enqueue something on streams of one device, with its context current.
_Calls = tuple[Context, tuple[Callable[[], None], ...]]


@dataclass
class _Bound:
    """Engines bound for one batch size, the calls that enqueue a request of it, and the graphs among these calls."""

    engines: dict[str, BoundDeviceEngine]
    closers: list[Callable[[], None]]
    calls: list[_Calls]
    graphs: list[Graph] = field(default_factory=list)
    # Whether the calls are what they will stay: engines set themselves up in the first request.
    is_settled: bool = False
    was_run: bool = False

    def close(self) -> None:
        """Give up graphs, then engines."""
        with DEVICE_SETUP:
            close_all([*self.closers, *(graph.close for graph in self.graphs)])


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _enqueue_all(groups: Sequence[_Calls]) -> None:
    for context, calls in groups:
        with context:
            _call_all(calls)


class CudaPipeline:
    """Device memory for every tensor of a plan, bound engines over it, and a stream for every lane.

    Serves one request at a time; `view` and `run` may be called from any thread. Everything is allocated when it is
    made, except what `view` needs for tensors that do not pass through the host.

    With `graphs` the first two requests of a batch size are enqueued piece by piece, and then captured into CUDA
    graphs, which the next are launched as: engines set themselves up in the first, and may do so again when the batch
    size has changed in between, which cannot be captured. ONNX Runtime's convolutions do. Profiled requests are
    enqueued piece by piece. In the mode `auto` so are all requests that cannot be captured; a warning says why.
    """

    def __init__(
        self,
        plan: Plan,
        engines: Mapping[str, DeviceEngine],
        driver: Driver,
        *,
        graphs: GraphMode = "never",
        ranges: Ranges = NO_RANGES,
    ) -> None:
        self._plan = plan
        self._engines = engines
        self._driver = driver
        self._program = compile_program(plan, driver.reaches)
        self._graphs = graphs
        self._ranges = ranges
        self._contexts: dict[str, Context] = {}
        self._streams: dict[Lane, Stream] = {}
        self._events: dict[str, Event] = {}
        self._buffers: dict[tuple[str, str], Buffer] = {}
        self._pinned: dict[str, PinnedBuffer] = {}
        self._timers: Timers | None = None
        self._bound: OrderedDict[int, _Bound] = OrderedDict()
        self._stopped = False
        try:
            self._open(self._program)
        except BaseException:
            with suppress(ParNetError):
                self.stop()
            raise

    @property
    def is_stopped(self) -> bool:
        """Whether the pipeline can serve no more requests."""
        return self._stopped

    def view(self, tensor: str, rows: int) -> Array:
        """Return the first `rows` samples of a tensor in pinned memory, which the next request overwrites.

        Raises:
            EngineError: a tensor that does not pass through the host cannot be brought there.
            InferenceError: the pipeline is stopped, and the memory is gone.
        """
        self._check_open()
        spec = self._plan.tensors[tensor]
        if tensor not in self._program.pinned:
            self._fetch(tensor, rows)
        return self._pinned[tensor].array((self._plan.batch.max, *spec.shape), spec.dtype)[:rows]

    def run(self, batch: int) -> None:
        """Run the plan on the first `batch` samples of the input's memory.

        Raises:
            InferenceError: something failed. The streams have been drained, and the pipeline stays usable unless a
                device does not answer any more.
        """
        with self._request(batch) as bound:
            _enqueue_all(bound.calls)
            self._wait_for_end()
            if not bound.is_settled and bound.was_run:
                self._settle(bound, batch)
            bound.was_run = True

    def profile(self, batch: int) -> tuple[Span, ...]:
        """Run as `run` does and return when each stage and copy ran on its device, by events around it.

        Devices are compared by way of the host's clock, which each is read against when the request begins.

        Raises:
            InferenceError: as `run`.
        """
        begin = perf_counter()
        with self._request(batch) as bound:
            if self._timers is None:
                self._timers = Timers(self._program.operations, self._contexts, self._streams)
            bases_ms = {device: (at - begin) * 1e3 for device, at in self._timers.record_bases().items()}
            _enqueue_all(self._calls(self._program.operations, bound.engines, batch, self._timers))
            self._wait_for_end()
            return self._timers.read(bases_ms)

    @contextmanager
    def _request(self, batch: int) -> Iterator[_Bound]:
        self._check_open()
        try:
            with self._ranges.range(f"{self._plan.name} batch {batch}"):
                yield self._bound_for(batch)
        except BaseException as error:
            self._drain()
            if isinstance(error, ParNetError):
                raise InferenceError(error.what, where=error.where, remedy=error.remedy) from error
            raise

    def stop(self, *, wait: bool = True) -> None:  # noqa: ARG002
        """Wait for what is enqueued, then free everything in order. Stopping twice is fine."""
        if self._stopped:
            return
        self._stopped = True
        contexts = list(self._contexts.values())
        closers = [bound.close for bound in self._bound.values()]
        self._bound.clear()
        waits = [context.synchronize for context in contexts]
        close_all([*(context.close for context in contexts), *closers, *waits])

    def _open(self, program: Program) -> None:
        for lane in program.lanes:
            if lane.device not in self._contexts:
                self._contexts[lane.device] = Context(self._driver, device_ordinal(lane.device))
        for source, target in program.peers:
            with self._contexts[source]:
                self._driver.enable_peer_access(self._contexts[target].handle)
        for lane in program.lanes:
            with self._contexts[lane.device] as context:
                self._streams[lane] = Stream(context)
        for operation in program.operations:
            if isinstance(operation, Record):
                with self._contexts[operation.lane.device] as context:
                    self._events[operation.event] = Event(context)
        made = [
            (self._plan.placement[stage.name].device, name) for stage in self._plan.stages for name in stage.outputs
        ]
        for device, tensor in (*program.device_tensors, *made):
            with self._contexts[device] as context:
                self._buffers[device, tensor] = Buffer(context, self._size_bytes(tensor, self._plan.batch.max))
        with self._contexts[program.home.device] as context:
            self._end = Event(context)
            for memory, tensor in program.pinned.items():
                self._pinned[memory] = PinnedBuffer(context, self._size_bytes(tensor, self._plan.batch.max))

    def _check_open(self) -> None:
        if self._stopped:
            raise InferenceError("the pipeline is stopped", remedy="open the plan again")

    def _size_bytes(self, tensor: str, batch: int) -> int:
        return batch * self._plan.tensors[tensor].size_bytes

    def _bound_for(self, batch: int) -> _Bound:
        bound = self._bound.get(batch)
        if bound is not None:
            self._bound.move_to_end(batch)
            return bound
        if len(self._bound) == BOUND_BATCH_SIZES:
            self._bound.popitem(last=False)[1].close()
        with DEVICE_SETUP:
            engines, closers = self._bind(batch)
        calls = self._calls(self._program.operations, engines, batch)
        bound = self._bound[batch] = _Bound(engines, closers, calls, is_settled=self._graphs == "never")
        return bound

    def _bind(self, batch: int) -> tuple[dict[str, BoundDeviceEngine], list[Callable[[], None]]]:
        """Return engines bound to the pipeline's memory and streams, and what closes them."""
        engines: dict[str, BoundDeviceEngine] = {}
        closers: list[Callable[[], None]] = []
        try:
            for stage in self._plan.stages:
                lane = self._plan.placement[stage.name]
                addresses = {name: self._buffers[lane.device, name].handle for name in (*stage.inputs, *stage.outputs)}
                with self._contexts[lane.device] as context:
                    engine = self._engines[stage.name].bind_device(addresses, batch, self._streams[lane].handle)
                    closers.append(partial(context.call, engine.close))
                engines[stage.name] = engine
        except BaseException:
            with suppress(ParNetError):
                close_all(closers)
            raise
        return engines, closers

    def _calls(
        self,
        operations: Sequence[Operation],
        engines: Mapping[str, BoundDeviceEngine],
        batch: int,
        timers: Timers | None = None,
    ) -> list[_Calls]:
        """Return what to enqueue, in order; operations of one device that follow each other share its context."""
        groups = groupby(enumerate(operations), key=lambda entry: entry[1].lane.device)
        calls: list[_Calls] = []
        for device, group in groups:
            made: list[Callable[[], None]] = []
            for index, operation in group:
                call = self._call(operation, engines, batch)
                made += [call] if timers is None else timers.around(index, call)
            calls.append((self._contexts[device], tuple(made)))
        return calls

    def _call(self, operation: Operation, engines: Mapping[str, BoundDeviceEngine], batch: int) -> Callable[[], None]:
        device, stream = operation.lane.device, self._streams[operation.lane]
        match operation:
            case Launch(stage=stage):
                return self._ranges.around(stage, engines[stage].enqueue)
            case Upload(tensor=tensor, memory=memory):
                size = self._size_bytes(tensor, batch)
                return partial(stream.upload, self._buffers[device, tensor], self._pinned[memory], size)
            case Download(tensor=tensor, memory=memory):
                size = self._size_bytes(tensor, batch)
                return partial(stream.download, self._pinned[memory], self._buffers[device, tensor], size)
            case PeerCopy(tensor=tensor, source=source, target=target):
                buffers = self._buffers[target, tensor], self._buffers[source, tensor]
                return partial(stream.copy_to_peer, *buffers, self._size_bytes(tensor, batch))
            case Record(event=event):
                return partial(stream.record, self._events[event])
            case Wait(event=event):
                return partial(stream.wait, self._events[event])

    def _settle(self, bound: _Bound, batch: int) -> None:
        """Capture the calls of a batch size into graphs, or keep them as they are where that is not possible."""
        try:
            with DEVICE_SETUP:
                segments = split_into_segments(self._program)
                calls = [call for segment in segments for call in self._capture(segment, bound, batch)]
        except EngineError as error:
            close_all([graph.close for graph in bound.graphs])
            bound.graphs.clear()
            if self._graphs == "always":
                raise EngineError(
                    f"the schedule cannot be captured into CUDA graphs: {error.what}", remedy="run without graphs"
                ) from error
            _log.warning("requests of batch %d are enqueued piece by piece, not as CUDA graphs: %s", batch, error.what)
        else:
            bound.calls = calls
        bound.is_settled = True

    def _capture(self, segment: Segment, bound: _Bound, batch: int) -> list[_Calls]:
        calls = self._calls(segment.operations, bound.engines, batch)
        if not segment.is_graph:
            return calls
        stream = self._streams[segment.lane]
        with stream.context as context:
            graph = Graph.capture(stream, partial(_call_all, [call for _, group in calls for call in group]))
        bound.graphs.append(graph)
        return [(context, (partial(graph.launch, stream),))]

    def _wait_for_end(self) -> None:
        with self._contexts[self._program.home.device]:
            self._streams[self._program.home].record(self._end)
            self._end.synchronize()

    def _fetch(self, tensor: str, rows: int) -> None:
        """Bring a tensor that a stage has made to pinned memory, and wait for it."""
        lane = next(self._plan.placement[stage.name] for stage in self._plan.stages if tensor in stage.outputs)
        with self._contexts[lane.device] as context:
            if tensor not in self._pinned:
                self._pinned[tensor] = PinnedBuffer(context, self._size_bytes(tensor, self._plan.batch.max))
            stream = self._streams[lane]
            stream.download(self._pinned[tensor], self._buffers[lane.device, tensor], self._size_bytes(tensor, rows))
            stream.synchronize()

    def _drain(self) -> None:
        """Wait for what a failed request has enqueued; a device that does not answer ends the pipeline."""
        try:
            close_all([context.synchronize for context in self._contexts.values()])
        except ParNetError:
            with suppress(ParNetError):
                self.stop()
