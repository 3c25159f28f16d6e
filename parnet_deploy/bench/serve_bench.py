"""Measure several plans in turn, each run alone in a child process, and make the report."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from parnet_deploy import __version__
from parnet_deploy.artifacts.files import holds, refuse_folder
from parnet_deploy.artifacts.folders import OpenPlan, open_plan
from parnet_deploy.artifacts.measurements import BenchRound, LatencyStatistics, ScenarioSettings, SweepPoint
from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.baseline import Baseline, compare_with, comparison_notes, settings_of_baseline
from parnet_deploy.bench.contenders import contender_of, labels_of, measured_plan, ratios_of
from parnet_deploy.bench.loadgen import import_loadgen
from parnet_deploy.bench.machine import describe_machine
from parnet_deploy.bench.output.publish import write_report
from parnet_deploy.bench.overhead import can_be_emptied, harness_settings, write_empty_twin
from parnet_deploy.bench.processes import run_point, run_round
from parnet_deploy.bench.scenarios import DEFAULT_ROUNDS
from parnet_deploy.bench.sweep import SweepOptions, sweep_batches
from parnet_deploy.errors import InferenceError
from parnet_deploy.reporting.publish import check_publishing


@dataclass(frozen=True)
class Progress:
    """Where a benchmark stands: `done` of `total` runs are over; `description` names the next."""

    done: int
    total: int
    description: str


def serve_bench(
    plans: Sequence[Path],
    settings: ScenarioSettings,
    *,
    rounds: int = DEFAULT_ROUNDS,
    sweep: SweepOptions | None = None,
    baseline: Baseline | None = None,
    output: Path | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Measure plans under one scenario, in turn (A B C A B C ...); the first is the reference of the ratios.

    After the rounds come one run per plan with engines that do nothing, and the points of a `sweep`. The report is
    compared with a `baseline`, which does not fail for a regression: see `Comparison.regressions`. With `output` it is
    also written there as a folder, replaced whole if `force` allows it. `on_progress` is called before each run and
    after the last.

    Raises:
        ArtifactError: a plan or report that cannot be read, one that cannot be compared, or an output that cannot be
            written.
        InferenceError: a plan that failed while it was measured, or no plan or round to measure.
        MissingDependencyError: LoadGen, or what draws the report, is not installed.
    """
    if not plans or rounds < 1:
        raise InferenceError(
            "there must be at least one plan and one round to measure", remedy="pass a plan, and --rounds from 1"
        )
    import_loadgen()
    if output is not None:
        check_publishing()
        refuse_folder(output, force=force, is_ours=holds("report.json"))
    machine = describe_machine()
    entries = [_Entry(label, path, open_plan(path)) for label, path in zip(labels_of(plans), plans, strict=True)]
    measured = [measured_plan(entry.label, entry.plan) for entry in entries]
    points = [_points(entry, sweep) for entry in entries]
    notes: tuple[str, ...] = ()
    if baseline is not None:
        settings = settings_of_baseline(baseline, settings)
        notes = comparison_notes(baseline, measured, settings, machine, rounds)

    emptied = [entry for entry in entries if can_be_emptied(entry.plan.manifest)]
    steps = _Steps(rounds * len(plans) + len(emptied) + sum(map(len, points)), on_progress)
    settings, taken = _measure_in_turn(entries, settings, rounds, steps)
    harness = {entry.label: _measure_harness(entry, steps) for entry in emptied}
    sweeps = [_measure_points(entry, settings, wanted, steps) for entry, wanted in zip(entries, points, strict=True)]
    steps.finish()

    contenders = tuple(
        contender_of(plan, taken[index], harness=harness.get(plan.label), sweep=sweeps[index])
        for index, plan in enumerate(measured)
    )
    report = Report(
        tool_version=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=settings,
        machine=machine,
        contenders=contenders,
        ratios=ratios_of(contenders),
        comparison=None if baseline is None else compare_with(baseline, contenders, notes),
    )
    if output is not None:
        write_report(output, report, force=force)
    return report


@dataclass(frozen=True)
class _Entry:
    """A plan to measure and what it is called."""

    label: str
    path: Path
    plan: OpenPlan


class _Steps:
    """Count the runs."""

    def __init__(self, total: int, on_progress: Callable[[Progress], None]) -> None:
        self._total = total
        self._on_progress = on_progress
        self._begun = 0

    def begin(self, description: str) -> None:
        self._on_progress(Progress(self._begun, self._total, description))
        self._begun += 1

    def finish(self) -> None:
        self._on_progress(Progress(self._total, self._total, "done"))


def _measure_in_turn(
    entries: Sequence[_Entry], settings: ScenarioSettings, rounds: int, steps: _Steps
) -> tuple[ScenarioSettings, list[list[BenchRound]]]:
    """Return the settings as they were used and the rounds of each plan.

    Targets that the settings leave open are chosen by the first run, the reference's, and hold for all that follow.
    """
    measured: list[list[BenchRound]] = [[] for _ in entries]
    for number in range(rounds):
        for index, entry in enumerate(entries):
            steps.begin(f"{entry.label}, round {number + 1} of {rounds}")
            result = run_round(entry.path, entry.label, settings)
            settings = result.settings
            measured[index].append(result.round)
    return settings, measured


def _measure_harness(entry: _Entry, steps: _Steps) -> LatencyStatistics:
    """Measure a plan with engines that do nothing."""
    steps.begin(f"{entry.label}, with empty engines")
    with tempfile.TemporaryDirectory(prefix="parnet-bench-") as folder:
        write_empty_twin(entry.plan, Path(folder))
        return run_round(Path(folder), f"{entry.label} with empty engines", harness_settings()).round.latency


def _points(entry: _Entry, sweep: SweepOptions | None) -> list[tuple[int, int]]:
    """Return the (clients, batch size) at which a plan is measured."""
    if sweep is None:
        return []
    batches = sweep_batches(sweep, entry.plan.manifest.batch, entry.label)
    return [(clients, batch) for batch in batches for clients in sweep.concurrencies]


def _measure_points(
    entry: _Entry, settings: ScenarioSettings, points: Sequence[tuple[int, int]], steps: _Steps
) -> list[SweepPoint]:
    measured = []
    for clients, batch in points:
        steps.begin(f"{entry.label}, {clients} at once, batch {batch}")
        measured.append(run_point(entry.path, entry.label, settings, concurrency=clients, batch=batch))
    return measured
