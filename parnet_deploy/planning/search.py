"""Find the best placement of stages onto equal devices: every placement, but not every renaming of the same one.

A ParNet's graph is small (at most nine stages), so the search is exact. It grows a placement stage by stage and leaves
a branch as soon as the stages placed so far, and the longest chain after them, already take longer than the worst
placement that is kept.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import Lane, Stage
from parnet_deploy.planning.links import Link
from parnet_deploy.planning.schedule import HOST, bytes_moved, schedule
from parnet_deploy.planning.timeline import Span, simulate

# Times that differ by less than this count as equal: sums of the same numbers in another order.
_RESOLUTION_MS = 1e-9


@dataclass(frozen=True)
class Workload:
    """What is placed: stages in topological order, their times on one device, and tensors' bytes, all of one request.

    Stages run on a lane in this order. `batch` is how many samples the times and bytes are of.
    """

    stages: tuple[Stage, ...]
    durations_ms: Mapping[str, float]
    sizes_bytes: Mapping[str, int]
    batch: int = 1
    input: str = "image"
    output: str = "logits"

    def __post_init__(self) -> None:
        for stage in self.stages:
            if not self.durations_ms.get(stage.name, 0.0) > 0:
                raise ValueError(f"stage {stage.name!r} needs a positive duration")


@dataclass(frozen=True)
class Prediction:
    """What a placement is predicted to do.

    Latency is of one request alone, from the host's input to the host's output. Throughput is in samples per second
    with enough requests in flight: one request per time of the busiest lane, its copies included. `bytes_across` cross
    between devices, `bytes_host` between the host and devices.
    """

    placement: Mapping[str, Lane]
    latency_ms: float
    throughput_per_s: float
    bytes_across: int
    bytes_host: int
    spans: tuple[Span, ...]

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes in use, by device and stream."""
        return tuple(sorted(set(self.placement.values()), key=lambda lane: (lane.device, lane.stream)))


def predict(workload: Workload, placement: Mapping[str, Lane], link: Link) -> Prediction:
    """Predict one placement.

    Lanes are taken to be independent, as `simulate` says: neither streams of one device nor copies at the same time
    slow each other.
    """
    commands = schedule(workload.stages, placement, workload.input, workload.output)
    spans = simulate(commands, workload.durations_ms, link.cost_of(workload.sizes_bytes))
    busy_ms: dict[Lane, float] = {}
    for span in spans:
        busy_ms[span.lane] = busy_ms.get(span.lane, 0.0) + span.end_ms - span.start_ms
    bytes_host, bytes_across = bytes_moved(commands, workload.sizes_bytes)
    return Prediction(
        placement=dict(placement),
        latency_ms=max(span.end_ms for span in spans),
        throughput_per_s=1e3 * workload.batch / max(busy_ms.values()),
        bytes_across=bytes_across,
        bytes_host=bytes_host,
        spans=spans,
    )


def search(workload: Workload, link: Link, *, devices: int, streams: int = 1, top: int = 1) -> tuple[Prediction, ...]:
    """Return the `top` best placements onto at most `devices` equal GPUs with at most `streams` streams each.

    Best is lowest latency, then fewest bytes between devices, then fewest lanes. Placements that only rename devices,
    or streams of one device, are one placement, whose devices and streams are numbered by first use.

    Raises:
        ValueError: fewer than one device, stream or placement asked for.
    """
    if min(devices, streams, top) < 1:
        raise ValueError("search needs at least one device, one stream and one placement to return")
    return _Search(workload, link, devices, streams, top).run()


class _Search:
    """Branch and bound over restricted growth: a stage joins a lane in use, or opens the next of a kind."""

    def __init__(self, workload: Workload, link: Link, devices: int, streams: int, top: int) -> None:
        self._workload = workload
        self._link = link
        self._lanes = [
            [Lane(device=f"cuda:{device}", stream=stream) for stream in range(streams)] for device in range(devices)
        ]
        self._top = top
        self._tail_ms = _tails(workload, link)
        self._best: list[Prediction] = []

    def run(self) -> tuple[Prediction, ...]:
        self._grow({})
        return tuple(self._best)

    def _grow(self, placement: dict[str, Lane]) -> None:
        if len(placement) == len(self._workload.stages):
            insort(self._best, predict(self._workload, placement, self._link), key=_rank)
            del self._best[self._top :]
            return
        stage = self._workload.stages[len(placement)]
        grown = [{**placement, stage.name: lane} for lane in self._choices(placement)]
        # The most promising first, so that a good placement is found early and more branches are left.
        for bound_ms, child in sorted(((self._bound_ms(child), child) for child in grown), key=lambda pair: pair[0]):
            if len(self._best) < self._top or bound_ms <= self._best[-1].latency_ms + 2 * _RESOLUTION_MS:
                self._grow(child)

    def _choices(self, placement: Mapping[str, Lane]) -> Iterator[Lane]:
        used = set(placement.values())
        for lanes in self._lanes:
            for lane in lanes:
                yield lane
                if lane not in used:
                    break
            if lanes[0] not in used:
                return

    def _bound_ms(self, placement: Mapping[str, Lane]) -> float:
        """Return what no completion of a partial placement can be faster than.

        A stage more adds commands behind those that are there, and so delays them at most.
        """
        placed = self._workload.stages[: len(placement)]
        commands = schedule(placed, placement, self._workload.input, self._workload.output)
        spans = simulate(commands, self._workload.durations_ms, self._link.cost_of(self._workload.sizes_bytes))
        return max(span.end_ms + (0.0 if span.is_copy else self._tail_ms[span.stage]) for span in spans)


def _rank(prediction: Prediction) -> tuple[int, int, int, tuple[tuple[str, int], ...]]:
    lanes = tuple((lane.device, lane.stream) for lane in prediction.placement.values())
    return round(prediction.latency_ms / _RESOLUTION_MS), prediction.bytes_across, len(set(lanes)), lanes


def _tails(workload: Workload, link: Link) -> dict[str, float]:
    """Return for each stage the time of the longest chain of stages behind it, and of the output's way to the host."""
    readers: dict[str, list[Stage]] = {}
    for stage in workload.stages:
        for tensor in stage.inputs:
            readers.setdefault(tensor, []).append(stage)
    download_ms = link.copy_ms("cuda:0", HOST, workload.sizes_bytes[workload.output])
    tails_ms: dict[str, float] = {}
    for stage in reversed(workload.stages):
        after = [reader for tensor in stage.outputs for reader in readers.get(tensor, [])]
        tails_ms[stage.name] = max(
            [workload.durations_ms[reader.name] + tails_ms[reader.name] for reader in after],
            default=0.0,
        )
        if workload.output in stage.outputs:
            tails_ms[stage.name] = max(tails_ms[stage.name], download_ms)
    return tails_ms
