"""Timelines for trace viewers: rows, times and names."""

from __future__ import annotations

import json

import pytest

from parnet_deploy.artifacts.schemas import Lane
from parnet_deploy.planning.timeline import Span
from parnet_deploy.planning.trace import trace_of

A, B, C = Lane(device="cuda:0"), Lane(device="cuda:0", stream=1), Lane(device="cuda:1")
REQUEST = (
    Span(A, "stream1", 0.25, 1.5),
    Span(C, "stream2", 0.5, 2.0),
    Span(C, "stream2 to cuda:0", 2.0, 2.125, is_copy=True),
    Span(B, "join", 2.25, 3.0),
)


def test_devices_are_processes_and_streams_their_rows() -> None:
    trace = json.loads(json.dumps(trace_of([REQUEST], "net")))
    events = trace["traceEvents"]
    names = {(e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names == {
        ("process_name", 0, 0): "cuda:0",
        ("process_name", 1, 0): "cuda:1",
        ("thread_name", 0, 0): "stream 0",
        ("thread_name", 0, 1): "stream 1",
        ("thread_name", 1, 0): "stream 0",
    }
    spans = [(e["name"], e["cat"], e["ts"], e["dur"], e["pid"], e["tid"]) for e in events if e["ph"] == "X"]
    assert spans == [
        ("stream1", "stage", 250.0, 1250.0, 0, 0),
        ("stream2", "stage", 500.0, 1500.0, 1, 0),
        ("stream2 to cuda:0", "copy", 2000.0, 125.0, 1, 0),
        ("join", "stage", 2250.0, 750.0, 0, 1),
    ]
    assert trace["otherData"] == {"title": "net"}


def test_requests_follow_each_other() -> None:
    events = [e for e in trace_of([REQUEST, (), REQUEST], "net")["traceEvents"] if e["ph"] == "X"]
    assert [e["args"]["request"] for e in events] == [0] * 4 + [2] * 4
    # The first ends at 3 ms; each request is 0.1 ms behind the one before it.
    assert [later["ts"] - first["ts"] for first, later in zip(events[:4], events[4:], strict=True)] == pytest.approx(
        [3200.0] * 4
    )
