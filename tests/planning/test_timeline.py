"""Simulated and drawn timelines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import Lane, Record, Wait
from parnet_deploy.planning.partition import PARTITIONS
from parnet_deploy.planning.placement import device_lanes, place
from parnet_deploy.planning.schedule import schedule
from parnet_deploy.planning.timeline import Span, draw_timeline, simulate

STREAMS = PARTITIONS["streams"](3)
DURATIONS_MS = {"stream1": 49.0, "stream2": 57.0, "stream3": 65.0, "join": 16.0}


def test_streams_overlap_and_the_join_starts_with_the_last() -> None:
    spans = simulate(schedule(STREAMS, place(STREAMS, device_lanes("cpu", 3))), DURATIONS_MS)
    assert [(str(span.lane), span.stage, span.start_ms, span.end_ms) for span in spans] == [
        ("cpu/0", "stream1", 0.0, 49.0),
        ("cpu/1", "stream2", 0.0, 57.0),
        ("cpu/2", "stream3", 0.0, 65.0),
        ("cpu/0", "join", 65.0, 81.0),
    ]


def test_one_lane_adds_up() -> None:
    spans = simulate(schedule(STREAMS, place(STREAMS, device_lanes("cpu", 1))), DURATIONS_MS)
    assert spans[-1].end_ms == sum(DURATIONS_MS.values())


def test_copies_take_their_time_on_the_lane_that_pushes() -> None:
    gpus = tuple(Lane(device=f"cuda:{index}") for index in range(3))
    commands = schedule(STREAMS, place(STREAMS, gpus))
    spans = simulate(commands, DURATIONS_MS, lambda copy: {"image": 1.0, "logits": 0.0}.get(copy.tensor, 2.0))
    # Upload, stream 3, its push to cuda:0, the join; the free download is left out.
    assert spans[-1] == Span(gpus[0], "join", 1.0 + 65.0 + 2.0, 1.0 + 65.0 + 2.0 + 16.0)
    assert [span for span in spans if span.is_copy and span.lane == gpus[2]] == [
        Span(gpus[2], "image to cuda:2", 0.0, 1.0, is_copy=True),
        Span(gpus[2], "stream3 to cuda:0", 66.0, 68.0, is_copy=True),
    ]


def test_missing_durations_and_early_waits_are_refused() -> None:
    with pytest.raises(ValueError, match="no duration for stage 'stream1'"):
        simulate(schedule(STREAMS, place(STREAMS, device_lanes("cpu", 1))), {})
    lane = Lane(device="cpu")
    with pytest.raises(ValueError, match="before it is recorded"):
        simulate((Wait(lane=lane, event="e"), Record(lane=lane, event="e")), {})


def test_drawing_is_to_scale() -> None:
    spans = simulate(schedule(STREAMS, place(STREAMS, device_lanes("cpu", 3))), DURATIONS_MS)
    assert draw_timeline(spans, width=6 + 81) == "\n".join(
        [
            "      0" + " " * 72 + "81.00 ms",
            "cpu/0 [" + "stream1".center(47, "#") + "]" + "." * 16 + "[" + "join".center(14, "#") + "]",
            "cpu/1 [" + "stream2".center(55, "#") + "]" + "." * 24,
            "cpu/2 [" + "stream3".center(63, "#") + "]" + "." * 16,
        ]
    )


def test_drawing_nothing_gives_nothing() -> None:
    assert draw_timeline(()) == ""


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.floats(0, 1000), st.floats(0, 1000), st.booleans()), min_size=1, max_size=20
    ),
    st.integers(1, 120),
)
def test_rows_have_one_width_and_start_with_their_lane(raw: list[tuple[int, float, float, bool]], width: int) -> None:
    spans = [Span(Lane(device="cpu", stream=lane), "s" * 30, a, a + b, copy) for lane, a, b, copy in raw]
    rows = draw_timeline(spans, width).splitlines()
    assert {len(row) for row in rows} == {max(width, 26)}
    assert [row.split(" ")[0] for row in rows[1:]] == sorted({str(span.lane) for span in spans})
