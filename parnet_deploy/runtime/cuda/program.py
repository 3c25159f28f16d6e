"""Turn a plan's schedule into what is enqueued on CUDA streams: pure, and the same for every batch size.

A copy between devices that cannot reach each other goes through pinned memory: down on the lane that it is scheduled
on, up on a stream of the target device for this copy alone (or the other way round), and the lane then waits for it. So
whoever waits for an event behind the copy waits for all of it: events mean the same with and without peer access.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import Copy, Lane, Launch, Plan, Record, Wait
from parnet_deploy.engines.gpus import device_ordinal
from parnet_deploy.errors import EngineError
from parnet_deploy.planning.schedule import HOST, add_host_sync

_PREFIX = "cuda:"


@dataclass(frozen=True)
class Upload:
    """Copy a tensor from the pinned memory called `memory` to the lane's device."""

    lane: Lane
    tensor: str
    memory: str


@dataclass(frozen=True)
class Download:
    """Copy a tensor from the lane's device to the pinned memory called `memory`."""

    lane: Lane
    tensor: str
    memory: str


@dataclass(frozen=True)
class PeerCopy:
    """Copy a tensor between devices that reach each other."""

    lane: Lane
    tensor: str
    source: str
    target: str


Operation = Launch | Upload | Download | PeerCopy | Record | Wait


@dataclass(frozen=True)
class Program:
    """Operations in the order in which they are enqueued; `home` is the lane whose end is the request's end."""

    operations: tuple[Operation, ...]
    home: Lane

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Every lane that something is enqueued on, in the order of their first use."""
        return tuple(dict.fromkeys((self.home, *(operation.lane for operation in self.operations))))

    @property
    def device_tensors(self) -> tuple[tuple[str, str], ...]:
        """Every (device, tensor) that a copy brings to a device; what stages make is not among them."""
        arrivals: list[tuple[str, str]] = []
        for operation in self.operations:
            if isinstance(operation, Upload):
                arrivals.append((operation.lane.device, operation.tensor))
            elif isinstance(operation, PeerCopy):
                arrivals.append((operation.target, operation.tensor))
        return tuple(dict.fromkeys(arrivals))

    @property
    def pinned(self) -> dict[str, str]:
        """Every piece of pinned memory, with the tensor that passes through it."""
        transfers = (operation for operation in self.operations if isinstance(operation, Upload | Download))
        return {transfer.memory: transfer.tensor for transfer in transfers}

    @property
    def peers(self) -> tuple[tuple[str, str], ...]:
        """Every (source, target) of a copy between devices that reach each other."""
        copies = (operation for operation in self.operations if isinstance(operation, PeerCopy))
        return tuple(dict.fromkeys((copy.source, copy.target) for copy in copies))


@dataclass(frozen=True)
class Segment:
    """Operations that are enqueued one after another, or captured and launched on `lane` as one graph."""

    lane: Lane
    operations: tuple[Operation, ...]
    is_graph: bool


def split_into_segments(program: Program) -> tuple[Segment, ...]:
    """Return a program as graphs, joined by events where one graph cannot hold it all.

    On one device everything is one graph, which the home lane's stream is the origin of. Over several devices a graph
    holds a run of launches, uploads and downloads of one lane: records and waits stay between graphs, because a wait
    inside a graph means what was recorded when the graph is launched, and of two devices that wait for each other
    neither could be launched first. Moving a run to its first operation leaves the order of records and waits.
    """
    if len({lane.device for lane in program.lanes}) == 1:
        return (Segment(program.home, program.operations, is_graph=True),)
    segments: list[list[Operation]] = []
    # The run of each lane that a further operation of it would belong to.
    runs: dict[Lane, list[Operation]] = {}
    for operation in program.operations:
        if isinstance(operation, Launch | Upload | Download):
            if operation.lane not in runs:
                runs[operation.lane] = []
                segments.append(runs[operation.lane])
            runs[operation.lane].append(operation)
        else:
            runs.pop(operation.lane, None)
            segments.append([operation])
    return tuple(
        Segment(run[0].lane, tuple(run), is_graph=any(isinstance(operation, Launch) for operation in run))
        for run in segments
    )


def compile_program(plan: Plan, reaches: Callable[[int, int], bool]) -> Program:
    """Return what runs `plan`, where `reaches` tells which devices can copy to each other directly.

    Raises:
        EngineError: the plan places a stage on the processor.
    """
    home = plan.placement[next(stage.name for stage in plan.stages if plan.output in stage.outputs)]
    operations: list[Operation] = []
    unused = _first_unused_streams(plan.schedule)
    for command in add_host_sync(plan.schedule, home):
        if not command.lane.device.startswith(_PREFIX):
            raise EngineError(
                f"this executor runs on GPUs only, and the plan has a {command.op} on {command.lane}",
                remedy="place all stages on GPUs, or all on the cpu",
            )
        if not isinstance(command, Copy):
            operations.append(command)
        elif command.source == HOST:
            operations.append(Upload(command.lane, command.tensor, command.tensor))
        elif command.target == HOST:
            operations.append(Download(command.lane, command.tensor, command.tensor))
        elif reaches(device_ordinal(command.source), device_ordinal(command.target)):
            operations.append(PeerCopy(command.lane, command.tensor, command.source, command.target))
        else:
            extra = command.target if command.lane.device == command.source else command.source
            stream = unused.get(extra, 0)
            unused[extra] = stream + 1
            operations += _copy_through_host(command, Lane(device=extra, stream=stream))
    return Program(tuple(operations), home)


def _first_unused_streams(schedule: Sequence[Launch | Copy | Record | Wait]) -> dict[str, int]:
    """Return for each device a stream number that no lane of it has."""
    unused: dict[str, int] = {}
    for command in schedule:
        device, stream = command.lane.device, command.lane.stream
        unused[device] = max(unused.get(device, 0), stream + 1)
    return unused


def _copy_through_host(copy: Copy, extra: Lane) -> list[Operation]:
    """Return a copy through pinned memory of its own, by way of lane `extra` of the device it is not scheduled on."""
    down, up = (copy.lane, extra) if copy.lane.device == copy.source else (extra, copy.lane)
    memory = f"{copy.tensor}@{copy.target}"
    return [
        *_hand_over(copy.lane, down, f"host {memory} begin"),
        Download(down, copy.tensor, memory),
        *_hand_over(down, up, f"host {memory} down"),
        Upload(up, copy.tensor, memory),
        *_hand_over(up, copy.lane, f"host {memory} up"),
    ]


def _hand_over(giver: Lane, taker: Lane, event: str) -> list[Operation]:
    return [] if giver == taker else [Record(lane=giver, event=event), Wait(lane=taker, event=event)]
