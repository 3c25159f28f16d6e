"""Tell how long each stage and copy of a request waited after its inputs were there: a pure function of its spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import Stage
from parnet_deploy.planning.schedule import HOST
from parnet_deploy.planning.timeline import Span


@dataclass(frozen=True)
class Queued:
    """A span with its wait: from the moment its inputs were there to its start.

    For `lane_busy_ms` of it the lane was running something else; the rest is the way from one lane to the other.
    """

    span: Span
    wait_ms: float
    lane_busy_ms: float


def queueing(spans: Sequence[Span], stages: Sequence[Stage]) -> tuple[Queued, ...]:
    """Return every span of one request with its wait, in the order given.

    A stage's inputs are there when they were made, or copied to its device; what no stage makes, when the request
    began. A copy's tensor is there when it was made, or copied to the host for a copy that goes through it.
    """
    arrivals = _Arrivals(spans, stages)
    return tuple(_queued(span, arrivals.ready_ms(span), spans) for span in spans)


def _queued(span: Span, ready_ms: float, spans: Sequence[Span]) -> Queued:
    # Clocks of two devices are aligned to some microseconds only, so an input can seem to come after the start.
    wait_ms = max(0.0, span.start_ms - ready_ms)
    busy_ms = sum(
        max(0.0, min(other.end_ms, span.start_ms) - max(other.start_ms, ready_ms))
        for other in spans
        if other is not span and other.lane == span.lane
    )
    return Queued(span, wait_ms, min(wait_ms, busy_ms))


class _Arrivals:
    """When each tensor was made, and when it was on each device that it was copied to."""

    def __init__(self, spans: Sequence[Span], stages: Sequence[Stage]) -> None:
        ends_ms = {span.stage: span.end_ms for span in spans if not span.is_copy}
        self._inputs = {stage.name: stage.inputs for stage in stages}
        self._made_ms = {
            tensor: ends_ms[stage.name] for stage in stages if stage.name in ends_ms for tensor in stage.outputs
        }
        self._copied_ms = {_copy_of(span): span.end_ms for span in spans if span.is_copy}

    def ready_ms(self, span: Span) -> float:
        if not span.is_copy:
            return max(self._on_device_ms(tensor, span.lane.device) for tensor in self._inputs[span.stage])
        tensor, target = _copy_of(span)
        made_ms = self._made_ms.get(tensor, 0.0)
        return made_ms if target == HOST else self._copied_ms.get((tensor, HOST), made_ms)

    def _on_device_ms(self, tensor: str, device: str) -> float:
        return self._copied_ms.get((tensor, device), self._made_ms.get(tensor, 0.0))


def _copy_of(span: Span) -> tuple[str, str]:
    """Return the tensor and the target of a copy, which its name tells."""
    tensor, _, target = span.stage.rpartition(" to ")
    return tensor, target
