"""Decide on which lane every stage runs, and with how many threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parnet_deploy.artifacts.schemas import Lane, Stage


def device_lanes(device: str, count: int) -> tuple[Lane, ...]:
    """Return the first `count` lanes of one device: `cpu/0`, `cpu/1`, ... or the streams of one GPU."""
    return tuple(Lane(device=device, stream=stream) for stream in range(count))


def find_ancestors(stages: Sequence[Stage]) -> dict[str, frozenset[str]]:
    """Return for each stage the names of all stages that must end before it can start.

    `stages` are in topological order, as in a bundle.
    """
    maker: dict[str, str] = {}
    ancestors: dict[str, frozenset[str]] = {}
    for stage in stages:
        parents = {maker[tensor] for tensor in stage.inputs if tensor in maker}
        ancestors[stage.name] = frozenset(parents.union(*(ancestors[parent] for parent in parents)))
        maker.update((tensor, stage.name) for tensor in stage.outputs)
    return ancestors


def place(
    stages: Sequence[Stage], lanes: Sequence[Lane], durations_ms: Mapping[str, float] | None = None
) -> dict[str, Lane]:
    """Place each stage on one of `lanes`, so that stages without a path between them run side by side.

    A stage goes to a lane where it waits for nothing but its own ancestors, if there is one; among those to the lane of
    the input that is ready last, so that a chain stays on its lane and needs no hand-over; then to the first in the
    order of `lanes`. When every lane is busy with unrelated work it goes where it can start earliest. Lanes that bring
    nothing stay unused, so more may be offered than are needed: `device_lanes("cpu", len(stages))` places freely, one
    lane of each of several GPUs spreads over the GPUs, several lanes of one GPU spread over its streams.

    `durations_ms` are measured or estimated; without them all stages count the same.

    Raises:
        ValueError: no lanes, or a lane offered twice.
    """
    if not lanes or len(set(lanes)) != len(lanes):
        raise ValueError("placement needs at least one lane, each once")
    ancestors = find_ancestors(stages)
    inputs_of = {stage.name: frozenset(stage.inputs) for stage in stages}
    outputs_of = {stage.name: frozenset(stage.outputs) for stage in stages}
    on_lane: dict[Lane, list[str]] = {lane: [] for lane in lanes}
    end_ms: dict[str, float] = {}
    placement: dict[str, Lane] = {}

    def rank(stage: str, lane: Lane) -> tuple[bool, float, float]:
        placed = on_lane[lane]
        ready_ms = max((end_ms[name] for name in ancestors[stage]), default=0.0)
        start_ms = max(ready_ms, end_ms[placed[-1]] if placed else 0.0)
        handed_ms = max((end_ms[name] for name in placed if outputs_of[name] & inputs_of[stage]), default=-1.0)
        return not ancestors[stage].issuperset(placed), start_ms, -handed_ms

    for stage in stages:
        ranks = {lane: rank(stage.name, lane) for lane in lanes}
        lane = min(lanes, key=ranks.__getitem__)
        placement[stage.name] = lane
        on_lane[lane].append(stage.name)
        duration_ms = 1.0 if durations_ms is None else durations_ms[stage.name]
        end_ms[stage.name] = ranks[lane][1] + duration_ms
    return placement


def split_threads(stages: Sequence[Stage], placement: Mapping[str, Lane], cores: int) -> dict[str, int]:
    """Share `cores` among stages that can run at the same time; a stage that runs alone gets all of them.

    Stages can run at the same time when no path joins them and they are on different lanes. With k such lanes each
    gets `cores / k` threads, the first lanes one more where that leaves a remainder, and none less than one. Whatever
    runs at a time then has at most `max(cores, lanes)` threads.
    """
    return {stage: len(own) for stage, own in split_cores(stages, placement, range(cores)).items()}


def split_cores(
    stages: Sequence[Stage], placement: Mapping[str, Lane], cores: Sequence[int]
) -> dict[str, tuple[int, ...]]:
    """Share named cores as `split_threads` shares their number; where there are more lanes than cores, some overlap."""
    shares: dict[str, tuple[int, ...]] = {}
    for stage, lanes in lanes_at_once(stages, placement).items():
        before = lanes.index(placement[stage])
        share, remainder = divmod(len(cores), len(lanes))
        first = before * share + min(before, remainder)
        own_cores = cores[first : first + share + (before < remainder)]
        shares[stage] = tuple(own_cores) or (cores[before % len(cores)],)
    return shares


def lanes_at_once(stages: Sequence[Stage], placement: Mapping[str, Lane]) -> dict[str, tuple[Lane, ...]]:
    """Return for each stage the lanes, its own among them, on which something can run while it does, in their order."""
    ancestors = find_ancestors(stages)
    return {
        stage.name: tuple(
            sorted(
                {placement[stage.name]}
                | {
                    placement[other.name]
                    for other in stages
                    if other.name not in ancestors[stage.name] and stage.name not in ancestors[other.name]
                },
                key=lambda lane: (lane.device, lane.stream),
            )
        )
        for stage in stages
    }
