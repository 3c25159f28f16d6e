"""How long stages and copies waited, from timelines worked out by hand and from simulated ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import Lane
from parnet_deploy.planning.partition import PARTITIONS
from parnet_deploy.planning.placement import device_lanes, place
from parnet_deploy.planning.queueing import queueing
from parnet_deploy.planning.schedule import schedule
from parnet_deploy.planning.timeline import Span, simulate

STREAMS = PARTITIONS["streams"](3)
DURATIONS_MS = {"stream1": 49.0, "stream2": 57.0, "stream3": 65.0, "join": 16.0}
CPU = device_lanes("cpu", 3)
GPUS = tuple(Lane(device=f"cuda:{index}") for index in range(3))


def waits(spans: tuple[Span, ...]) -> dict[str, tuple[float, float]]:
    return {entry.span.stage: (entry.wait_ms, entry.lane_busy_ms) for entry in queueing(spans, STREAMS)}


def test_on_lanes_of_their_own_nothing_waits() -> None:
    spans = simulate(schedule(STREAMS, place(STREAMS, CPU)), DURATIONS_MS)
    assert waits(spans) == dict.fromkeys(DURATIONS_MS, (0.0, 0.0))


def test_on_one_lane_each_stream_waits_for_those_before() -> None:
    spans = simulate(schedule(STREAMS, place(STREAMS, CPU[:1])), DURATIONS_MS)
    assert waits(spans) == {
        "stream1": (0.0, 0.0),
        "stream2": (49.0, 49.0),
        "stream3": (106.0, 106.0),
        "join": (0.0, 0.0),
    }


def test_what_is_no_work_of_the_lane_is_the_way_there() -> None:
    spans = (
        Span(CPU[0], "stream1", 0.5, 10.0),
        Span(CPU[1], "stream2", 0.0, 12.0),
        Span(CPU[0], "stream3", 11.0, 20.0),
        Span(CPU[0], "join", 20.25, 30.0),
    )
    # Stream 3 could have begun with the request: the lane worked for 9.5 of its 11 ms.
    assert waits(spans) == {
        "stream1": (0.5, 0.0),
        "stream2": (0.0, 0.0),
        "stream3": (11.0, 9.5),
        "join": (0.25, 0.0),
    }


def test_an_input_is_there_when_its_copy_has_arrived() -> None:
    spans = (
        Span(GPUS[1], "image to cuda:1", 0.0, 1.0, is_copy=True),
        Span(GPUS[0], "image to cuda:0", 0.2, 1.5, is_copy=True),
        Span(GPUS[0], "stream1", 1.5, 5.0),
        Span(GPUS[0], "stream3", 5.0, 8.0),
        Span(GPUS[1], "stream2", 1.0, 9.0),
        Span(GPUS[1], "stream2 to cuda:0", 9.5, 10.0, is_copy=True),
        Span(GPUS[0], "join", 10.75, 12.0),
        Span(GPUS[0], "logits to cpu", 12.0, 12.1, is_copy=True),
    )
    assert waits(spans) == {
        "image to cuda:1": (0.0, 0.0),
        "image to cuda:0": (0.2, 0.0),
        "stream1": (0.0, 0.0),
        "stream3": (3.5, 3.5),
        "stream2": (0.0, 0.0),
        "stream2 to cuda:0": (0.5, 0.0),
        "join": (0.75, 0.0),
        "logits to cpu": (0.0, 0.0),
    }


def test_a_copy_through_the_host_goes_up_when_it_has_come_down() -> None:
    spans = (
        Span(GPUS[1], "stream2", 0.0, 9.0),
        Span(GPUS[1], "stream2 to cpu", 9.0, 10.0, is_copy=True),
        Span(GPUS[0], "stream2 to cuda:0", 10.5, 11.0, is_copy=True),
        Span(GPUS[0], "join", 11.0, 12.0),
    )
    assert waits(spans)["stream2 to cuda:0"] == (0.5, 0.0)
    assert waits(spans)["join"] == (0.0, 0.0)


def test_clocks_that_disagree_make_no_negative_wait() -> None:
    spans = (Span(GPUS[0], "stream1", 0.0, 5.0), Span(GPUS[1], "join", 4.99, 6.0))
    assert waits(spans)["join"] == (0.0, 0.0)


@given(st.tuples(*[st.floats(0.01, 100)] * 4), st.integers(1, 3), st.booleans())
def test_waits_end_at_the_start_and_hold_what_the_lane_did(
    durations: tuple[float, ...], lanes: int, is_on_gpus: bool
) -> None:
    placed = place(STREAMS, (GPUS if is_on_gpus else CPU)[:lanes])
    spans = simulate(
        schedule(STREAMS, placed), dict(zip(DURATIONS_MS, durations, strict=True)), lambda copy: len(copy.tensor) / 10
    )
    found = queueing(spans, STREAMS)
    assert [entry.span for entry in found] == list(spans)
    ends = {span.stage: span.end_ms for span in spans}
    for entry in found:
        assert 0 <= entry.lane_busy_ms <= entry.wait_ms <= entry.span.start_ms + 1e-9
        if not entry.span.is_copy and not is_on_gpus:
            stage = next(stage for stage in STREAMS if stage.name == entry.span.stage)
            # In this partition every tensor is named after the stage that makes it.
            ready_ms = max(ends.get(tensor, 0.0) for tensor in stage.inputs)
            assert entry.span.start_ms - entry.wait_ms == pytest.approx(ready_ms)
            # A lane of the simulation is never late: what it waits for is itself or an input.
            assert entry.lane_busy_ms == pytest.approx(entry.wait_ms)
