"""Execute a plan's schedule on GPUs: a CUDA stream per lane, events for the order, one wait of the host at the end."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from time import perf_counter

from parnet_deploy.artifacts.schemas import Lane, Launch, Plan, Record, Wait
from parnet_deploy.engines.base import Array, BoundDeviceEngine, DeviceEngine
from parnet_deploy.errors import EngineError, InferenceError, ParNetError
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.objects import Buffer, Context, Event, Graph, PinnedBuffer, Stream, close_all
from parnet_deploy.runtime.cuda.program import (
    Download,
    Operation,
    PeerCopy,
    Program,
    Upload,
    compile_program,
    device_ordinal,
)

# Batch sizes whose bindings a pipeline keeps; the memory is the same for all of them.
_BOUND_BATCH_SIZES = 8

# Calls that enqueue something on streams of one device, with its context current.
_Calls = tuple[Context, tuple[Callable[[], None], ...]]


@dataclass
class _Bound:
    """Engines bound for one batch size, the calls that enqueue a request of it, and the graph of these calls."""

    engines: dict[str, BoundDeviceEngine]
    calls: list[_Calls]
    graph: Graph | None = None
    was_run: bool = False

    @property
    def closers(self) -> list[Callable[[], None]]:
        """What gives everything up, when called from the last to the first."""
        graphs = [] if self.graph is None else [self.graph.close]
        return [*(engine.close for engine in self.engines.values()), *graphs]


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

    With `graphs`, and all stages on one device, the second request of a batch size is captured into a CUDA graph, which
    this one and the next are launched as; the first is not, because engines set themselves up in it. Plans over several
    devices, and traced requests, are enqueued piece by piece.
    """

    def __init__(
        self, plan: Plan, engines: Mapping[str, DeviceEngine], driver: Driver, *, graphs: bool = False
    ) -> None:
        self._plan = plan
        self._engines = engines
        self._driver = driver
        self._program = compile_program(plan, driver.reaches)
        self._graphs = graphs and len({lane.device for lane in self._program.lanes}) == 1
        self._contexts: dict[str, Context] = {}
        self._streams: dict[Lane, Stream] = {}
        self._events: dict[str, Event] = {}
        self._buffers: dict[tuple[str, str], Buffer] = {}
        self._pinned: dict[str, PinnedBuffer] = {}
        self._timers: dict[str, tuple[Event, Event]] = {}
        self._bases: dict[str, Event] = {}
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

    def run(self, batch: int, trace: list[tuple[str, float, float]] | None = None) -> None:
        """Run the plan on the first `batch` samples of the input's memory.

        `trace` receives (stage, start, end) of each launch on its device, in the seconds of `time.perf_counter`.

        Raises:
            InferenceError: something failed. The streams have been drained, and the pipeline stays usable unless a
                device does not answer any more.
        """
        self._check_open()
        try:
            bound = self._bound_for(batch)
            if trace is None:
                self._start(bound)
                self._wait_for_end()
            else:
                bases = self._record_bases()
                _enqueue_all(self._calls(bound.engines, batch, traced=True))
                self._wait_for_end()
                trace += self._read_timers(bases)
            bound.was_run = True
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
        closers = [close for bound in self._bound.values() for close in bound.closers]
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
        if len(self._bound) == _BOUND_BATCH_SIZES:
            close_all(self._bound.popitem(last=False)[1].closers)
        engines: dict[str, BoundDeviceEngine] = {}
        try:
            for stage in self._plan.stages:
                device = self._plan.placement[stage.name].device
                addresses = {name: self._buffers[device, name].handle for name in (*stage.inputs, *stage.outputs)}
                with self._contexts[device]:
                    engines[stage.name] = self._engines[stage.name].bind_device(addresses, batch)
        except BaseException:
            with suppress(ParNetError):
                close_all([engine.close for engine in engines.values()])
            raise
        bound = self._bound[batch] = _Bound(engines, self._calls(engines, batch, traced=False))
        return bound

    def _calls(self, engines: Mapping[str, BoundDeviceEngine], batch: int, *, traced: bool) -> list[_Calls]:
        """Return what to enqueue, in order; operations of one device that follow each other share its context."""
        groups = groupby(self._program.operations, key=lambda operation: operation.lane.device)
        return [
            (
                self._contexts[device],
                tuple(call for operation in operations for call in self._enqueue(operation, engines, batch, traced)),
            )
            for device, operations in groups
        ]

    def _enqueue(
        self, operation: Operation, engines: Mapping[str, BoundDeviceEngine], batch: int, traced: bool
    ) -> Sequence[Callable[[], None]]:
        stream = self._streams[operation.lane]
        device = operation.lane.device
        match operation:
            case Launch(stage=stage):
                launch = partial(engines[stage].enqueue, stream.handle)
                if not traced:
                    return [launch]
                start, end = self._timers[stage]
                return [partial(stream.record, start), launch, partial(stream.record, end)]
            case Upload(tensor=tensor, memory=memory):
                size = self._size_bytes(tensor, batch)
                return [partial(stream.upload, self._buffers[device, tensor], self._pinned[memory], size)]
            case Download(tensor=tensor, memory=memory):
                size = self._size_bytes(tensor, batch)
                return [partial(stream.download, self._pinned[memory], self._buffers[device, tensor], size)]
            case PeerCopy(tensor=tensor, source=source, target=target):
                buffers = self._buffers[target, tensor], self._buffers[source, tensor]
                return [partial(stream.copy_to_peer, *buffers, self._size_bytes(tensor, batch))]
            case Record(event=event):
                return [partial(stream.record, self._events[event])]
            case Wait(event=event):
                return [partial(stream.wait, self._events[event])]

    def _start(self, bound: _Bound) -> None:
        """Enqueue a request, as a graph where that is possible."""
        if not (self._graphs and bound.was_run):
            _enqueue_all(bound.calls)
            return
        stream = self._streams[self._program.home]
        with stream.context:
            if bound.graph is None:
                bound.graph = self._capture(stream, [call for _, group in bound.calls for call in group])
            bound.graph.launch(stream)

    def _capture(self, stream: Stream, calls: Sequence[Callable[[], None]]) -> Graph:
        try:
            return Graph.capture(stream, partial(_call_all, calls))
        except EngineError as error:
            raise EngineError(
                f"the schedule cannot be captured into a CUDA graph: {error.what}", remedy="run the plan without graphs"
            ) from error

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

    def _record_bases(self) -> dict[str, float]:
        """Record on each device an event to measure from, and return the host's time of each."""
        if not self._timers:
            self._create_timers()
        bases = {}
        for device, base in self._bases.items():
            lane = next(lane for lane in self._streams if lane.device == device)
            with self._contexts[device]:
                self._streams[lane].record(base)
                base.synchronize()
            bases[device] = perf_counter()
        return bases

    def _create_timers(self) -> None:
        for stage, lane in self._plan.placement.items():
            with self._contexts[lane.device] as context:
                if lane.device not in self._bases:
                    self._bases[lane.device] = Event(context, timing=True)
                self._timers[stage] = Event(context, timing=True), Event(context, timing=True)

    def _read_timers(self, bases: Mapping[str, float]) -> list[tuple[str, float, float]]:
        """Return when each stage ran; every stage has ended, because `home` waits for all lanes."""
        times: list[tuple[str, float, float]] = []
        for stage, (start, end) in self._timers.items():
            device = self._plan.placement[stage].device
            base = self._bases[device]
            with self._contexts[device]:
                start_s, end_s = (bases[device] + event.ms_since(base) / 1e3 for event in (start, end))
            times.append((stage, start_s, end_s))
        return sorted(times, key=lambda time: time[2])

    def _drain(self) -> None:
        """Wait for what a failed request has enqueued; a device that does not answer ends the pipeline."""
        try:
            close_all([context.synchronize for context in self._contexts.values()])
        except ParNetError:
            with suppress(ParNetError):
                self.stop()
