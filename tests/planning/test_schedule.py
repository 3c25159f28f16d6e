"""Schedules: what is ordered, what is not, and that a list with anything missing is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import Command, Copy, Lane, Launch, Record, Stage, Wait
from parnet_deploy.planning.partition import PARTITIONS
from parnet_deploy.planning.placement import device_lanes, place
from parnet_deploy.planning.schedule import add_host_sync, check_schedule, schedule

CPU = Lane(device="cpu")
LANES = tuple(Lane(device=device, stream=stream) for device in ("cpu", "cuda:0", "cuda:1") for stream in range(2))


@st.composite
def placed_dags(draw: st.DrawFn) -> tuple[tuple[Stage, ...], dict[str, Lane]]:
    """Random stages in topological order on 1 to 4 lanes of 1 to 3 devices; the last makes `logits`."""
    tensors = ["image"]
    stages = []
    count = draw(st.integers(1, 7))
    for index in range(count):
        inputs = tuple(draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3, unique=True)))
        outputs = tuple(f"t{index}.{part}" for part in range(draw(st.integers(1, 2))))
        stages.append(Stage(name=f"s{index}", inputs=inputs, outputs=outputs if index < count - 1 else ("logits",)))
        tensors += outputs
    lanes = draw(st.lists(st.sampled_from(LANES), min_size=1, max_size=4, unique=True))
    return tuple(stages), {stage.name: draw(st.sampled_from(lanes)) for stage in stages}


def described(commands: tuple[Command, ...]) -> list[str]:
    """Render commands as short words."""
    words = []
    for command in commands:
        match command:
            case Launch():
                words.append(f"{command.lane} launch {command.stage}")
            case Copy():
                words.append(f"{command.lane} copy {command.tensor} {command.source}>{command.target}")
            case _:
                words.append(f"{command.lane} {command.op} {command.event}")
    return words


def test_one_lane_needs_no_events() -> None:
    stages = PARTITIONS["streams"](2)
    commands = schedule(stages, place(stages, device_lanes("cpu", 1)))
    assert described(commands) == ["cpu/0 launch stream1", "cpu/0 launch stream2", "cpu/0 launch join"]


def test_the_join_waits_for_the_streams_of_other_lanes_only() -> None:
    stages = PARTITIONS["streams"](3)
    commands = schedule(stages, place(stages, device_lanes("cpu", 3)))
    assert described(commands) == [
        "cpu/0 launch stream1",
        "cpu/1 launch stream2",
        "cpu/1 record stream2",
        "cpu/2 launch stream3",
        "cpu/2 record stream3",
        "cpu/0 wait stream2",
        "cpu/0 wait stream3",
        "cpu/0 launch join",
    ]


def test_a_wait_that_an_earlier_wait_implies_is_left_out() -> None:
    first, second, third = (Lane(device="cpu", stream=index) for index in range(3))
    stages = (
        Stage(name="a", inputs=("image",), outputs=("ta",)),
        Stage(name="b", inputs=("ta",), outputs=("tb",)),
        # c needs a and b; b already waited for a.
        Stage(name="c", inputs=("ta", "tb"), outputs=("logits",)),
    )
    commands = schedule(stages, {"a": first, "b": second, "c": third})
    assert [command.event for command in commands if isinstance(command, Wait)] == ["a", "b"]
    assert [command.lane for command in commands if isinstance(command, Wait)] == [second, third]


def test_a_tensor_crosses_to_a_device_once_however_many_lanes_need_it() -> None:
    stages = (
        Stage(name="a", inputs=("image",), outputs=("t",)),
        Stage(name="b", inputs=("t",), outputs=("tb",)),
        Stage(name="c", inputs=("t",), outputs=("tc",)),
        Stage(name="d", inputs=("tb", "tc"), outputs=("logits",)),
    )
    gpu0, gpu1a, gpu1b = Lane(device="cuda:0"), Lane(device="cuda:1"), Lane(device="cuda:1", stream=1)
    commands = schedule(stages, {"a": gpu0, "b": gpu1a, "c": gpu1b, "d": gpu1a})
    assert described(commands) == [
        "cuda:0/0 copy image cpu>cuda:0",
        "cuda:0/0 launch a",
        "cuda:0/0 copy t cuda:0>cuda:1",
        "cuda:0/0 record t@cuda:1",
        "cuda:1/0 wait t@cuda:1",
        "cuda:1/0 launch b",
        "cuda:1/1 wait t@cuda:1",
        "cuda:1/1 launch c",
        "cuda:1/1 record c",
        "cuda:1/0 wait c",
        "cuda:1/0 launch d",
        "cuda:1/0 copy logits cuda:1>cpu",
    ]


def test_the_image_is_uploaded_once_per_gpu_and_the_logits_are_downloaded() -> None:
    stages = PARTITIONS["streams"](3)
    gpus = tuple(Lane(device=f"cuda:{index}") for index in range(3))
    copies = [command for command in schedule(stages, place(stages, gpus)) if isinstance(command, Copy)]
    assert sorted((copy.tensor, copy.source, copy.target) for copy in copies) == [
        ("image", "cpu", "cuda:0"),
        ("image", "cpu", "cuda:1"),
        ("image", "cpu", "cuda:2"),
        ("logits", "cuda:0", "cpu"),
        ("stream2", "cuda:1", "cuda:0"),
        ("stream3", "cuda:2", "cuda:0"),
    ]


@settings(deadline=None)
@given(placed_dags())
def test_every_schedule_passes_and_nothing_in_it_can_be_removed(
    case: tuple[tuple[Stage, ...], dict[str, Lane]],
) -> None:
    stages, placement = case
    commands = schedule(stages, placement)
    check_schedule(commands, stages, placement)
    for index in range(len(commands)):
        with pytest.raises(ValueError, match=r"needs|could run|not recorded|never"):
            check_schedule(commands[:index] + commands[index + 1 :], stages, placement)


@settings(deadline=None)
@given(placed_dags(), st.randoms(use_true_random=False))
def test_any_order_that_the_events_allow_runs_every_stage_after_its_inputs(
    case: tuple[tuple[Stage, ...], dict[str, Lane]], random: object
) -> None:
    """Execute lanes in random interleavings and look at the tensors that are there, without any clocks."""
    stages, placement = case
    by_name = {stage.name: stage for stage in stages}
    queues: dict[Lane, list[Command]] = {}
    for command in schedule(stages, placement):
        queues.setdefault(command.lane, []).append(command)
    there = {("image", "cpu")}
    events: set[str] = set()
    while any(queues.values()):
        able = [
            queue for queue in queues.values() if queue and (not isinstance(queue[0], Wait) or queue[0].event in events)
        ]
        assert able, "deadlock"
        command = random.choice(able).pop(0)  # type: ignore[attr-defined]
        match command:
            case Launch():
                assert {(name, command.lane.device) for name in by_name[command.stage].inputs} <= there
                there |= {(name, command.lane.device) for name in by_name[command.stage].outputs}
            case Copy():
                assert (command.tensor, command.source) in there
                there.add((command.tensor, command.target))
            case Record():
                events.add(command.event)
    assert ("logits", "cpu") in there


@settings(deadline=None)
@given(placed_dags())
def test_a_launch_moved_to_another_lane_is_refused(case: tuple[tuple[Stage, ...], dict[str, Lane]]) -> None:
    stages, placement = case
    commands = schedule(stages, placement)
    for index, command in enumerate(commands):
        if isinstance(command, Launch):
            moved = command.model_copy(update={"lane": Lane(device="cpu", stream=77)})
            with pytest.raises(ValueError, match="not placed"):
                check_schedule((*commands[:index], moved, *commands[index + 1 :]), stages, placement)


STAGES = (
    Stage(name="a", inputs=("image",), outputs=("t",)),
    Stage(name="b", inputs=("t",), outputs=("logits",)),
)
HOST_PLACEMENT = {"a": CPU, "b": CPU}
A, B = Launch(lane=CPU, stage="a"), Launch(lane=CPU, stage="b")
OTHER = Lane(device="cpu", stream=1)
GPU = Lane(device="cuda:0")


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        ((B, A), "stage 'b' on lane cpu/0 needs 't', which is not on cpu by then"),
        ((A, A, B), "stage 'a' is launched twice"),
        ((A, B, Launch(lane=CPU, stage="z")), "'z' is launched twice or is not in the plan"),
        ((A, Record(lane=CPU, event="e"), Record(lane=CPU, event="e"), B), "event 'e' is recorded twice"),
        ((A, Record(lane=CPU, event="host start"), B), "'host start' is recorded twice, or is an executor's own"),
        ((A, Wait(lane=OTHER, event="e"), Record(lane=CPU, event="e"), B), "'e', which is not recorded"),
        ((A, Copy(lane=CPU, tensor="t", source="cpu", target="cpu"), B), "cannot copy from cpu to cpu"),
        ((A, Copy(lane=CPU, tensor="t", source="cuda:0", target="cuda:1"), B), "cannot copy from cuda:0 to cuda:1"),
        ((A, Copy(lane=GPU, tensor="t", source="cuda:0", target="cpu"), B), "needs 't', which is not on cuda:0"),
        (
            (
                A,
                Copy(lane=CPU, tensor="t", source="cpu", target="cuda:0"),
                Copy(lane=CPU, tensor="t", source="cpu", target="cuda:0"),
                B,
            ),
            "'t' is written twice on cuda:0",
        ),
        ((A,), "stage 'b' is never launched"),
        ((), "stage 'a' is never launched"),
    ],
)
def test_wrong_lists_are_refused_with_the_reason(commands: tuple[Command, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_schedule(commands, STAGES, HOST_PLACEMENT)


def test_a_record_before_the_launch_that_it_should_follow_is_refused() -> None:
    placement = {"a": CPU, "b": OTHER}
    early = (
        Record(lane=CPU, event="e"),
        A,
        Wait(lane=OTHER, event="e"),
        Launch(lane=OTHER, stage="b"),
    )
    with pytest.raises(ValueError, match="'b' on lane cpu/1 could run before 't' is made on lane cpu/0"):
        check_schedule(early, STAGES, placement)
    check_schedule((A, early[0], *early[2:]), STAGES, placement)


def test_logits_left_on_a_gpu_are_refused() -> None:
    placement = {"a": GPU, "b": GPU}
    commands = schedule(STAGES, placement)
    assert isinstance(commands[-1], Copy)
    with pytest.raises(ValueError, match="'logits' is never brought back to the host"):
        check_schedule(commands[:-1], STAGES, placement)


def test_host_sync_adds_nothing_to_one_lane() -> None:
    commands = schedule(STAGES, HOST_PLACEMENT)
    assert add_host_sync(commands, CPU) == commands


def test_host_sync_starts_only_lanes_that_do_not_begin_by_waiting() -> None:
    shared = PARTITIONS["shared-stem"](3)
    commands = schedule(shared, place(shared, device_lanes("cpu", 7)))
    assert add_host_sync(commands, CPU) == commands
    streams = PARTITIONS["streams"](3)
    commands = schedule(streams, place(streams, device_lanes("cpu", 7)))
    assert described(add_host_sync(commands, CPU)) == [
        "cpu/0 record host start",
        "cpu/1 wait host start",
        "cpu/2 wait host start",
        *described(commands),
    ]


def test_host_sync_waits_for_a_lane_that_nobody_waited_for() -> None:
    stages = (*STAGES, Stage(name="side", inputs=("t",), outputs=("unused",)))
    commands = add_host_sync(schedule(stages, {**HOST_PLACEMENT, "side": OTHER}), CPU)
    assert described(commands)[-3:] == ["cpu/1 launch side", "cpu/1 record host end cpu/1", "cpu/0 wait host end cpu/1"]


@settings(deadline=None)
@given(placed_dags(), st.randoms(use_true_random=False))
def test_with_host_sync_the_home_lane_frames_the_whole_request(
    case: tuple[tuple[Stage, ...], dict[str, Lane]], random: object
) -> None:
    stages, placement = case
    home = placement[stages[-1].name]
    commands = add_host_sync(schedule(stages, placement), home)
    queues: dict[Lane, list[Command]] = {home: []}
    for command in commands:
        queues.setdefault(command.lane, []).append(command)
    assert all(isinstance(queue[0], Wait) for lane, queue in queues.items() if lane != home)
    events: set[str] = set()
    # Run the home lane whenever it can go on: when it has ended, so must all others have.
    while queues[home]:
        able = [q for q in queues.values() if q and (not isinstance(q[0], Wait) or q[0].event in events)]
        queue = queues[home] if any(q is queues[home] for q in able) else random.choice(able)  # type: ignore[attr-defined]
        command = queue.pop(0)
        if isinstance(command, Record):
            events.add(command.event)
    assert not any(queues.values())
