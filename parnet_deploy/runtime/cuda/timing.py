"""When operations ran on their devices, by events around them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from parnet_deploy.artifacts.schemas import Lane, Launch
from parnet_deploy.planning.timeline import Span
from parnet_deploy.runtime.cuda.objects import Context, Event, Stream
from parnet_deploy.runtime.cuda.program import Download, Operation, PeerCopy, Upload


def name_of(operation: Operation) -> tuple[str, bool] | None:
    """Return what a stage or copy is called in a timeline and whether it is a copy; nothing for what takes no time."""
    match operation:
        case Launch(stage=stage):
            return stage, False
        case Upload(tensor=tensor, lane=lane):
            return f"{tensor} to {lane.device}", True
        case Download(tensor=tensor):
            return f"{tensor} to cpu", True
        case PeerCopy(tensor=tensor, target=target):
            return f"{tensor} to {target}", True
    return None


@dataclass(frozen=True)
class _Timer:
    lane: Lane
    name: str
    is_copy: bool
    start: Event
    end: Event


class Timers:
    """Events around every stage and copy of a program, and one on each device that all others are measured from."""

    def __init__(
        self, operations: Sequence[Operation], contexts: Mapping[str, Context], streams: Mapping[Lane, Stream]
    ) -> None:
        self._contexts = contexts
        self._streams = streams
        self._timers: dict[int, _Timer] = {}
        self._bases: dict[str, tuple[Stream, Event]] = {}
        for index, operation in enumerate(operations):
            named = name_of(operation)
            if named is not None:
                lane = operation.lane
                with contexts[lane.device] as context:
                    if lane.device not in self._bases:
                        self._bases[lane.device] = streams[lane], Event(context, timing=True)
                    self._timers[index] = _Timer(lane, *named, Event(context, timing=True), Event(context, timing=True))

    def around(self, index: int, call: Callable[[], None]) -> Sequence[Callable[[], None]]:
        """Return the calls that make the `index`-th operation's `call` between its events."""
        timer = self._timers.get(index)
        if timer is None:
            return [call]
        stream = self._streams[timer.lane]
        return [partial(stream.record, timer.start), call, partial(stream.record, timer.end)]

    def record_bases(self) -> dict[str, float]:
        """Record each device's base and return the host's `time.perf_counter` at which it was reached."""
        reached = {}
        for device, (stream, base) in self._bases.items():
            with self._contexts[device]:
                stream.record(base)
                base.synchronize()
            reached[device] = perf_counter()
        return reached

    def read(self, bases_ms: Mapping[str, float]) -> tuple[Span, ...]:
        """Return when everything ran, all of which has ended, in the order of the ends.

        `bases_ms` are the times of the bases; those of the spans are on the same scale.
        """
        spans = []
        for timer in self._timers.values():
            device = timer.lane.device
            base = self._bases[device][1]
            with self._contexts[device]:
                start_ms, end_ms = (bases_ms[device] + event.ms_since(base) for event in (timer.start, timer.end))
            spans.append(Span(timer.lane, timer.name, start_ms, end_ms, timer.is_copy))
        return tuple(sorted(spans, key=lambda span: span.end_ms))
