"""Turn a placement into the commands that run it, and prove of a list of commands that it cannot run too early.

Every lane executes its own commands in order. What orders lanes among each other is only `Record` and `Wait`, and a
`Wait` stands after its `Record` in the list, so a list that passes the check cannot deadlock either. The facts are kept
as vector clocks (Fidge 1988, Mattern 1989): for each lane how many commands of every lane are known to have ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from parnet_deploy.artifacts.schemas import Command, Copy, Lane, Launch, Record, Stage, Wait

HOST = "cpu"

# How an executor names events of its own; no stage or copy gives such a name.
_HOST_EVENT = "host "


@dataclass(frozen=True)
class _Made:
    """The command after which a tensor is on a device: the `index`-th of its lane, counted from 1."""

    lane: Lane
    index: int
    event: str


@dataclass
class _Clocks:
    """What each lane knows of every lane's progress."""

    known: dict[Lane, dict[Lane, int]] = field(default_factory=dict)
    issued: dict[Lane, int] = field(default_factory=dict)

    def advance(self, lane: Lane) -> int:
        """Count one more command on a lane and return its index."""
        self.issued[lane] = self.issued.get(lane, 0) + 1
        return self.issued[lane]

    def knows(self, lane: Lane, made_on: Lane, index: int) -> bool:
        """Tell whether the `index`-th command of `made_on` has ended whenever the next one of `lane` starts."""
        return lane == made_on or self.known.get(lane, {}).get(made_on, 0) >= index

    def snapshot(self, lane: Lane) -> dict[Lane, int]:
        """Return what is known to have ended once the lane's latest command has."""
        return {**self.known.get(lane, {}), lane: self.issued.get(lane, 0)}

    def merge(self, lane: Lane, snapshot: Mapping[Lane, int]) -> None:
        """Add what a snapshot says to what a lane knows."""
        own = self.known.setdefault(lane, {})
        for other, index in snapshot.items():
            if other != lane:
                own[other] = max(own.get(other, 0), index)


class _Scheduler:
    """Commands under construction; a `Record` is put behind a command only once somebody waits for it."""

    def __init__(self, stages: Sequence[Stage], placement: Mapping[str, Lane], input: str, output: str) -> None:
        # Each command with the event that a record behind it would be for.
        self._commands: list[tuple[Command, _Made | None]] = []
        self._recorded: set[_Made] = set()
        self._snapshots: dict[_Made, dict[Lane, int]] = {}
        self._clocks = _Clocks()
        # None: there from the start.
        self._made: dict[tuple[str, str], _Made | None] = {(input, HOST): None}
        self._home = {input: HOST}
        self._devices: dict[str, list[str]] = {output: [HOST]}
        for stage in stages:
            for tensor in stage.inputs:
                devices = self._devices.setdefault(tensor, [])
                if placement[stage.name].device not in devices:
                    devices.append(placement[stage.name].device)
        self._placement = placement

    def add(self, stage: Stage) -> None:
        lane = self._placement[stage.name]
        missing = [tensor for tensor in stage.inputs if (tensor, lane.device) not in self._made]
        here = [self._made[tensor, lane.device] for tensor in stage.inputs if tensor not in missing]
        sources = [self._made[tensor, self._home[tensor]] for tensor in missing]
        self._wait(lane, [made for made in (*here, *sources) if made is not None])
        for tensor in missing:
            self._copy(lane, tensor, self._home[tensor], lane.device)
        made = self._emit(Launch(lane=lane, stage=stage.name), stage.name)
        for tensor in stage.outputs:
            self._made[tensor, lane.device] = made
            self._home[tensor] = lane.device
            # A device pushes as soon as the tensor is made. The host has no queue that copies, so from there the
            # device that needs the tensor first pulls it.
            if lane.device != HOST:
                for target in self._devices.get(tensor, []):
                    if target != lane.device:
                        self._copy(lane, tensor, lane.device, target)

    def finish(self) -> tuple[Command, ...]:
        return tuple(self._with_records())

    def _with_records(self) -> Iterator[Command]:
        for command, made in self._commands:
            yield command
            if made in self._recorded and made is not None:
                yield Record(lane=made.lane, event=made.event)

    def _emit(self, command: Launch | Copy, event: str) -> _Made:
        made = _Made(command.lane, self._clocks.advance(command.lane), event)
        self._snapshots[made] = self._clocks.snapshot(made.lane)
        self._commands.append((command, made))
        return made

    def _copy(self, lane: Lane, tensor: str, source: str, target: str) -> None:
        command = Copy(lane=lane, tensor=tensor, source=source, target=target)
        self._made[tensor, target] = self._emit(command, f"{tensor}@{target}")

    def _wait(self, lane: Lane, needs: Sequence[_Made]) -> None:
        open_needs = [need for need in dict.fromkeys(needs) if not self._clocks.knows(lane, need.lane, need.index)]
        for need in open_needs:
            if not any(self._implies(other, need) for other in open_needs if other != need):
                self._recorded.add(need)
                self._commands.append((Wait(lane=lane, event=need.event), None))
                self._clocks.merge(lane, self._snapshots[need])

    def _implies(self, later: _Made, earlier: _Made) -> bool:
        return self._snapshots[later].get(earlier.lane, 0) >= earlier.index


def schedule(
    stages: Sequence[Stage], placement: Mapping[str, Lane], input: str = "image", output: str = "logits"
) -> tuple[Command, ...]:
    """Return the commands that run `stages`, in topological order, where `placement` puts them.

    Lanes are ordered by `Record` and `Wait` only where neither the order of a lane nor an earlier wait already does it.
    A tensor is copied once to each other device that needs it; `input` starts and `output` ends in the host's memory.
    """
    scheduler = _Scheduler(stages, placement, input, output)
    for stage in stages:
        scheduler.add(stage)
    return scheduler.finish()


def bytes_moved(commands: Sequence[Command], sizes_bytes: Mapping[str, int]) -> tuple[int, int]:
    """Return how many bytes go between the host and devices, and how many from device to device."""
    host = across = 0
    for command in commands:
        if isinstance(command, Copy):
            if HOST in (command.source, command.target):
                host += sizes_bytes[command.tensor]
            else:
                across += sizes_bytes[command.tensor]
    return host, across


class _Checker:
    """Replay commands and refuse the first that could run before what it needs."""

    def __init__(self, stages: Sequence[Stage], placement: Mapping[str, Lane], input: str) -> None:
        self._stages = {stage.name: stage for stage in stages}
        self._placement = placement
        self._clocks = _Clocks()
        self._made: dict[tuple[str, str], tuple[Lane, int] | None] = {(input, HOST): None}
        self._events: dict[str, dict[Lane, int]] = {}
        self.launched: set[str] = set()

    def holds(self, tensor: str, device: str) -> bool:
        return (tensor, device) in self._made

    def take(self, command: Command) -> None:
        match command:
            case Launch():
                self._launch(command)
            case Copy():
                self._copy(command)
            case Record():
                if command.event in self._events or command.event.startswith(_HOST_EVENT):
                    raise ValueError(f"event {command.event!r} is recorded twice, or is an executor's own")
                self._events[command.event] = self._clocks.snapshot(command.lane)
            case Wait():
                if command.event not in self._events:
                    raise ValueError(f"lane {command.lane} waits for event {command.event!r}, which is not recorded")
                self._clocks.merge(command.lane, self._events[command.event])

    def _launch(self, command: Launch) -> None:
        stage = self._stages.get(command.stage)
        if stage is None or command.stage in self.launched:
            raise ValueError(f"stage {command.stage!r} is launched twice or is not in the plan")
        if self._placement.get(stage.name) != command.lane:
            raise ValueError(f"stage {stage.name!r} is launched on lane {command.lane}, where it is not placed")
        for tensor in stage.inputs:
            self._need(command.lane, tensor, command.lane.device, f"stage {stage.name!r}")
        self.launched.add(stage.name)
        index = self._clocks.advance(command.lane)
        for tensor in stage.outputs:
            self._make(command.lane, index, tensor, command.lane.device)

    def _copy(self, command: Copy) -> None:
        if command.source == command.target or command.lane.device not in (command.source, command.target):
            raise ValueError(f"lane {command.lane} cannot copy from {command.source} to {command.target}")
        self._need(command.lane, command.tensor, command.source, "a copy")
        self._make(command.lane, self._clocks.advance(command.lane), command.tensor, command.target)

    def _make(self, lane: Lane, index: int, tensor: str, device: str) -> None:
        if (tensor, device) in self._made:
            raise ValueError(f"tensor {tensor!r} is written twice on {device}")
        self._made[tensor, device] = (lane, index)

    def _need(self, lane: Lane, tensor: str, device: str, who: str) -> None:
        if (tensor, device) not in self._made:
            raise ValueError(f"{who} on lane {lane} needs {tensor!r}, which is not on {device} by then")
        made = self._made[tensor, device]
        if made is not None and not self._clocks.knows(lane, *made):
            raise ValueError(f"{who} on lane {lane} could run before {tensor!r} is made on lane {made[0]}")


def check_schedule(
    commands: Sequence[Command],
    stages: Sequence[Stage],
    placement: Mapping[str, Lane],
    input: str = "image",
    output: str = "logits",
) -> None:
    """Check that no order of execution that `commands` allow runs anything before its inputs are there.

    A request ends when every lane has executed its commands, so the output needs no event of its own.

    Raises:
        ValueError: a stage that is missing, launched twice or elsewhere than placed; a tensor that is not there, could
            still be in the making, or is written twice; an event waited for before it is recorded.
    """
    checker = _Checker(stages, placement, input)
    for command in commands:
        checker.take(command)
    missing = [stage.name for stage in stages if stage.name not in checker.launched]
    if missing:
        raise ValueError(f"stage {missing[0]!r} is never launched")
    if not checker.holds(output, HOST):
        raise ValueError(f"{output!r} is never brought back to the host")


def add_host_sync(commands: Sequence[Command], home: Lane) -> tuple[Command, ...]:
    """Add the events by which lane `home`, whose executor also starts and ends the request, drives the other lanes.

    A lane that does not begin by waiting gets a `start` to wait for; `home` waits at the end for each lane that it does
    not already know to have ended. These events are an executor's own and are not part of a plan.
    """
    first: dict[Lane, Command] = {}
    for command in commands:
        first.setdefault(command.lane, command)
    idle = [lane for lane, command in first.items() if lane != home and not isinstance(command, Wait)]
    synced: list[Command] = []
    if idle:
        synced.append(Record(lane=home, event=f"{_HOST_EVENT}start"))
        synced += [Wait(lane=lane, event=f"{_HOST_EVENT}start") for lane in idle]
    synced += commands

    clocks = _Clocks()
    events: dict[str, dict[Lane, int]] = {}
    for command in synced:
        # Every command counts here: a lane has ended only when its last record has been made.
        clocks.advance(command.lane)
        match command:
            case Record():
                events[command.event] = clocks.snapshot(command.lane)
            case Wait():
                clocks.merge(command.lane, events[command.event])
    for lane in first:
        if not clocks.knows(home, lane, clocks.issued[lane]):
            synced += [
                Record(lane=lane, event=f"{_HOST_EVENT}end {lane}"),
                Wait(lane=home, event=f"{_HOST_EVENT}end {lane}"),
            ]
            clocks.merge(home, clocks.snapshot(lane))
    return tuple(synced)
