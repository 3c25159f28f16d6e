"""What `simulate` and `predict` say of a schedule against what the executor's streams do, in virtual time: equal.

Real delays are random in every request, and must not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parnet_deploy.artifacts.cuda_options import GraphMode
from parnet_deploy.artifacts.schemas import Copy, Lane, Launch, Plan, Wait
from parnet_deploy.planning.links import Link
from parnet_deploy.planning.placement import place
from parnet_deploy.planning.schedule import HOST, schedule
from parnet_deploy.planning.search import Workload, predict
from parnet_deploy.planning.timeline import Span, simulate
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.program import compile_program
from tests.cuda_sim.inside.host_engine import (
    PARTITIONS,
    HostBoundEngine,
    HostEngine,
    devices,
    expected,
    images,
    make_plan,
    reach,
)

DRAWS = 3
# Of a request. What the driver counts in is double precision, what its events tell is single precision.
TRACED, TOLD = 1e-9, 5e-7
ACCESS = ("peers", "staged", "mixed")


class TimedEngine:
    """An engine that takes a known virtual time, and notes the numbers of the streams that lanes are."""

    def __init__(self, sim: Any, engine: HostEngine, duration_ms: float, lane: Lane, lanes: dict[int, Lane]) -> None:
        self.sim, self.engine, self.duration_us = sim, engine, 1e3 * duration_ms
        self.lane, self.lanes = lane, lanes

    def bind_device(self, addresses: Mapping[str, int], batch: int, stream: int) -> TimedBoundEngine:
        self.lanes[self.sim.stream_number(stream)] = self.lane
        return TimedBoundEngine(self, self.engine.bind_device(addresses, batch, stream))

    def close(self) -> None:
        self.engine.close()


class TimedBoundEngine:
    def __init__(self, engine: TimedEngine, bound: HostBoundEngine) -> None:
        self.engine, self.bound = engine, bound

    def enqueue(self) -> None:
        self.engine.sim.next_host(self.engine.duration_us)
        self.bound.enqueue()

    def close(self) -> None:
        self.bound.close()


@dataclass(frozen=True)
class Case:
    """A plan with what its stages take, and links whose costs the driver was told; `link` where all are alike."""

    plan: Plan
    engines: Mapping[str, HostEngine]
    durations_ms: Mapping[str, float]
    ways_ms: Mapping[tuple[str, str], Callable[[int], float]]
    staged: frozenset[tuple[str, str]]
    link: Link | None
    batch: int

    @property
    def sizes_bytes(self) -> dict[str, int]:
        return {name: self.batch * spec.size_bytes for name, spec in self.plan.tensors.items()}

    @property
    def home(self) -> Lane:
        return self.plan.placement[next(s.name for s in self.plan.stages if self.plan.output in s.outputs)]

    @property
    def copy_ms(self) -> Callable[[Copy], float]:
        if self.link is not None:
            return self.link.cost_of(self.sizes_bytes)
        return lambda copy: sum(ms for _, _, ms in self.legs(copy))

    @property
    def workload(self) -> Workload:
        return Workload(self.plan.stages, self.durations_ms, self.sizes_bytes, self.batch)

    def legs(self, copy: Copy) -> list[tuple[str, str, float]]:
        """The copies that one is made of, from and to where, and their milliseconds."""
        ends = [copy.source, copy.target]
        if (copy.source, copy.target) in self.staged:
            ends.insert(1, HOST)
        size = self.sizes_bytes[copy.tensor]
        return [(source, target, self.ways_ms[source, target](size)) for source, target in pairwise(ends)]


def draw_case(sim: Any, bundles: Path, partition: str, lanes: tuple[Lane, ...], access: str, draw: int) -> Case:
    """Draw stage times, links and access; the first draw places stages as `build` does, the others anyhow."""
    names = list(dict.fromkeys(lane.device for lane in lanes))
    rng = np.random.default_rng([PARTITIONS.index(partition), len(names), len(lanes), ACCESS.index(access), draw])

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    plan, engines = make_plan(bundles, partition, lanes)
    durations_ms = {stage.name: log_uniform(0.01, 1.0) for stage in plan.stages}
    placement = place(plan.stages, lanes, durations_ms)
    if draw > 0:
        placement = {stage.name: lanes[rng.integers(len(lanes))] for stage in plan.stages}
    plan = plan.model_copy(update={"placement": placement, "schedule": schedule(plan.stages, placement)})
    link = Link(
        name="drawn",
        latency_us=log_uniform(1, 20),
        bandwidth_gb_s=log_uniform(0.5, 400),
        host_latency_us=log_uniform(1, 20),
        host_bandwidth_gb_s=log_uniform(0.5, 60),
    )
    staged: set[tuple[str, str]] = set()
    ways_ms: dict[tuple[str, str], Callable[[int], float]] = {}
    sim.clock(on=True)
    for source, target in permutations((HOST, *names), 2):
        costs = link.latency_us, link.bandwidth_gb_s
        if HOST in (source, target):
            costs = link.host_latency_us, link.host_bandwidth_gb_s
        if access == "mixed":
            costs = log_uniform(1, 20), log_uniform(0.5, 400)
        sim.link(source, target, *costs)
        ways_ms[source, target] = lambda size, costs=costs: costs[0] / 1e3 + size / costs[1] / 1e6
        if source < target and HOST not in (source, target):
            reached = access == "peers" or (access == "mixed" and bool(rng.integers(2)))
            sim.set_peer(int(source[5:]), int(target[5:]), reach=reached)
            staged |= set() if reached else {(source, target), (target, source)}
    if access == "staged":
        link = link.staged()
    batch = int(rng.integers(1, 4))
    return Case(plan, engines, durations_ms, ways_ms, frozenset(staged), None if access == "mixed" else link, batch)


# Name, device, lane (none for a stream that only staged copies use), bytes, begin and end in us.
Row = tuple[str, int, Lane | None, int, float, float]


def expected_rows(case: Case, spans: Sequence[Span]) -> list[Row]:
    """What the driver executes if the simulation is right: a row for each stage, and for each leg of each copy."""
    commands = [command for command in case.plan.schedule if isinstance(command, Launch | Copy)]
    rows: list[Row] = []
    for command, span in zip(commands, spans, strict=True):
        assert span.lane == command.lane
        if isinstance(command, Launch):
            assert span.stage == command.stage
            rows.append(("host", int(span.lane.device[5:]), span.lane, 0, 1e3 * span.start_ms, 1e3 * span.end_ms))
            continue
        assert span.stage == f"{command.tensor} to {command.target}"
        begin_us = 1e3 * span.start_ms
        for source, target, leg_ms in case.legs(command):
            name = "h2d" if source == HOST else "d2h" if target == HOST else "peer"
            device = target if source == HOST else source
            lane = span.lane if device == span.lane.device else None
            end_us = begin_us + 1e3 * leg_ms
            rows.append((name, int(device[5:]), lane, case.sizes_bytes[command.tensor], begin_us, end_us))
            begin_us = end_us
        assert begin_us == pytest.approx(1e3 * span.end_ms, rel=TRACED)
    return rows


def differences(measured: Sequence[Row], predicted: Sequence[Row], near_us: float) -> tuple[list[Row], list[Row]]:
    """Return the rows of each that the other has not, where times may differ by so much."""
    extra, missing = list(measured), []
    for row in predicted:
        same = (other for other in extra if other[:4] == row[:4] and np.allclose(other[4:], row[4:], 0, near_us))
        if (found := next(same, None)) is None:
            missing.append(row)
        else:
            extra.remove(found)
    return extra, missing


class Request:
    """A pipeline over a case's timed engines, and what a request made of it."""

    def __init__(self, sim: Any, driver: Driver, case: Case, graphs: GraphMode = "never") -> None:
        self.sim, self.case = sim, case
        self.lanes: dict[int, Lane] = {}
        engines = {
            name: TimedEngine(sim, engine, case.durations_ms[name], case.plan.placement[name], self.lanes)
            for name, engine in case.engines.items()
        }
        self.pipeline = CudaPipeline(case.plan, engines, driver, graphs=graphs)

    def run(self, seed: int, *, stop: bool = False) -> tuple[list[Row], float]:
        """Run with other delays and images; return what was executed, and when in us the request ended.

        Where the program's waits cannot be relied on, only the end of the pipeline is the end of everything.
        """
        self.sim.delays(seed, 60)
        self.pipeline.view("image", self.case.batch)[...] = images(seed, self.case.batch)
        self.sim.trace_start()
        self.pipeline.run(self.case.batch)
        if stop:
            self.pipeline.stop()
        trace = self.sim.timed_trace_stop()
        # The home lane begins and ends the request.
        at_home = [row for row in trace if self.lanes.get(row.stream) == self.case.home]
        begin_us, end_us = min(row.begin_us for row in at_home), at_home[-1].end_us
        rows: list[Row] = [
            (name, device, self.lanes.get(stream), size, begin - begin_us, end - begin_us)
            for name, device, stream, size, begin, end in trace
            if name not in ("record", "wait")
        ]
        return rows, end_us - begin_us

    def answer(self) -> bytes:
        return self.pipeline.view("logits", self.case.batch).tobytes()


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_streams_take_the_predicted_times(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], partition: str, count: int, access: str
) -> None:
    for streams in (1, 4):
        for draw in range(DRAWS):
            case = draw_case(sim, bundles, partition, devices(count, streams), access, draw)
            spans = simulate(case.plan.schedule, case.durations_ms, case.copy_ms)
            predicted = expected_rows(case, spans)
            latency_us = 1e3 * max(span.end_ms for span in spans)
            if case.link is not None:
                prediction = predict(case.workload, case.plan.placement, case.link)
                assert prediction.spans == spans
                assert 1e3 * prediction.latency_ms == latency_us
            request = Request(sim, driver, case)
            # The first begins at time zero, the second where the first has left every stream.
            for seed in (draw, draw + 1):
                rows, end_us = request.run(seed)
                assert differences(rows, predicted, TRACED * latency_us) == ([], [])
                assert end_us == pytest.approx(latency_us, rel=TRACED)
                assert request.answer() == expected(bundles, seed, case.batch).tobytes()
            check_profile(case, request.pipeline.profile(case.batch), predicted, TOLD * latency_us)
            request.pipeline.stop()
            counts["schedules that ran as simulated"] += 1
    reach(sim, True)


def check_profile(case: Case, spans: Sequence[Span], predicted: Sequence[Row], near_us: float) -> None:
    """Compare the spans of each device with each other: between devices stands the host's clock, which is real."""
    lanes = set(case.plan.placement.values())
    measured: list[Row] = []
    for span in spans:
        tensor, _, target = span.stage.partition(" to ")
        name, size = "host", 0
        if span.is_copy:
            name = {HOST: "d2h", span.lane.device: "h2d"}.get(target, "peer")
            size = case.sizes_bytes[tensor]
        lane = span.lane if span.lane in lanes else None
        measured.append((name, int(span.lane.device[5:]), lane, size, 1e3 * span.start_ms, 1e3 * span.end_ms))
    assert sorted(span.stage for span in spans if not span.is_copy) == sorted(stage.name for stage in case.plan.stages)
    for device in range(4):
        assert differences(since_first(measured, device), since_first(predicted, device), near_us) == ([], [])


def since_first(rows: Sequence[Row], device: int) -> list[Row]:
    first_us = min((row[4] for row in rows if row[1] == device), default=0.0)
    return [(*row[:4], row[4] - first_us, row[5] - first_us) for row in rows if row[1] == device]


@pytest.mark.parametrize("access", ACCESS)
@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_graphs_take_the_predicted_times_too(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], partition: str, count: int, access: str
) -> None:
    """A graph's nodes are all traced on the stream that it is launched on, so lanes are not compared."""
    case = draw_case(sim, bundles, partition, devices(count, 4), access, draw=DRAWS)
    spans = simulate(case.plan.schedule, case.durations_ms, case.copy_ms)
    latency_us = 1e3 * max(span.end_ms for span in spans)
    predicted = [(*row[:2], None, *row[3:]) for row in expected_rows(case, spans)]
    request = Request(sim, driver, case, graphs="always")
    for seed in range(3):
        rows, end_us = request.run(seed)
        found = [(*row[:2], None, *row[3:]) for row in rows]
        assert differences(found, predicted, TRACED * latency_us) == ([], [])
        assert end_us == pytest.approx(latency_us, rel=TRACED)
        assert request.answer() == expected(bundles, seed, case.batch).tobytes()
    request.pipeline.stop()
    reach(sim, True)
    counts["schedules that ran as simulated, as graphs"] += 1


@pytest.mark.parametrize("access", ["peers", "staged"])
def test_a_missing_wait_shows_in_the_times(
    sim: Any, driver: Driver, bundles: Path, counts: Counter[str], monkeypatch: pytest.MonkeyPatch, access: str
) -> None:
    """Any one: what it held up begins earlier than predicted, for some of the stage times."""
    seen: Counter[str] = Counter()
    waits: set[str] = set()
    for draw in range(1, 13):
        case = draw_case(sim, bundles, "terms-shared-stem", devices(3), access, 0)
        drawn = np.random.default_rng(draw).uniform(0.01, 1, len(case.durations_ms))
        case = replace(case, durations_ms=dict(zip(case.durations_ms, map(float, drawn), strict=True)))
        predicted = expected_rows(case, simulate(case.plan.schedule, case.durations_ms, case.copy_ms))
        program = compile_program(case.plan, driver.reaches)
        # The host has waited for the request before, so what starts the lanes holds nothing up.
        for wait in (op for op in program.operations if isinstance(op, Wait) and op.event != "host start"):
            mutant = type(program)(tuple(op for op in program.operations if op is not wait), program.home)
            monkeypatch.setattr("parnet_deploy.runtime.cuda.pipeline.compile_program", lambda *_, made=mutant: made)
            request = Request(sim, driver, case)
            waits.add(wait.event)
            seen[wait.event] += differences(request.run(draw, stop=True)[0], predicted, 1e-3) != ([], [])
            monkeypatch.undo()
    assert waits
    assert {event for event in waits if not seen[event]} == set()
    reach(sim, True)
    counts["mutations caught by their times"] += len(waits)
