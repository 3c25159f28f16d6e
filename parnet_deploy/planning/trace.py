"""Write spans as a trace that chrome://tracing and ui.perfetto.dev open: a process per device, a row per stream.

The format is Google's "Trace Event Format": complete events (`X`) with times in microseconds, and metadata (`M`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parnet_deploy.artifacts.schemas import Lane
from parnet_deploy.planning.timeline import Span

# Requests that were measured one by one are drawn this far apart.
_GAP_MS = 0.1


def trace_of(requests: Sequence[Sequence[Span]], title: str) -> dict[str, Any]:
    """Return the spans of requests, drawn one after another, as a JSON object; `title` names what ran."""
    lanes = sorted({span.lane for spans in requests for span in spans}, key=lambda lane: (lane.device, lane.stream))
    devices = list(dict.fromkeys(lane.device for lane in lanes))
    events = [_metadata("process_name", devices.index(device), 0, device) for device in devices]
    events += [_metadata("thread_name", *_ids(lane, devices), f"stream {lane.stream}") for lane in lanes]
    begin_ms = 0.0
    for number, spans in enumerate(requests):
        for span in spans:
            process, thread = _ids(span.lane, devices)
            events.append(
                {
                    "ph": "X",
                    "name": span.stage,
                    "cat": "copy" if span.is_copy else "stage",
                    "ts": (begin_ms + span.start_ms) * 1e3,
                    "dur": (span.end_ms - span.start_ms) * 1e3,
                    "pid": process,
                    "tid": thread,
                    "args": {"request": number},
                }
            )
        begin_ms += max((span.end_ms for span in spans), default=0.0) + _GAP_MS
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"title": title}}


def _ids(lane: Lane, devices: Sequence[str]) -> tuple[int, int]:
    return devices.index(lane.device), lane.stream


def _metadata(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": kind, "pid": process, "tid": thread, "args": {"name": name}}
