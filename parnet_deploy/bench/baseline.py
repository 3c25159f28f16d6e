"""Compare a benchmark with an earlier report: what may be compared, and what is a regression.

The rounds are the samples, not the queries: queries of one round share a process, its memory and what else the machine
did at that time. A contender is slower where the 95% interval of its slowdown (`statistics.change_interval`) lies above
1 and the slowdown is beyond the tolerance, which stands for what changes between two runs and no round of either shows.

What else a machine does only ever adds to a latency, so the fastest query of each round is the steadiest figure that it
has: docs/serve-bench.md gives what that was worth on a busy machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from parnet_deploy.artifacts.measurements import Scenario, ScenarioSettings
from parnet_deploy.artifacts.report import (
    Change,
    ChangeFinding,
    ComparedBy,
    Comparison,
    Contender,
    Interval,
    Machine,
    MeasuredPlan,
    Metric,
    Report,
    read_report,
)
from parnet_deploy.bench.output.words import cuda_text
from parnet_deploy.bench.statistics import change_interval, round_values, speed_ups
from parnet_deploy.errors import ArtifactError, InferenceError

DEFAULT_TOLERANCE = 0.05

# What has to be the same for queries to be the same; the rest only makes the figures more or less certain.
_SAME_SETTINGS = ("scenario", "samples_per_query", "concurrency", "target_percentile")
_TARGETS = ("target_qps", "target_latency_ms")
_SAME_PLAN = ("plan_name", "form", "partition", "precision", "batch", "backend", "backend_version")


@dataclass(frozen=True)
class Baseline:
    """An earlier report, which figures are compared with it and how, and how much slower is still no regression."""

    folder: Path
    report: Report
    metric: Metric
    by: ComparedBy
    tolerance: float


def steadiest_metric(scenario: Scenario) -> Metric:
    """Return the figure to compare runs by: the fastest query, or where queries wait for each other, what they get."""
    metrics: dict[Scenario, Metric] = {"server": "p50_latency", "offline": "throughput"}
    return metrics.get(scenario, "min_latency")


def open_baseline(
    folder: Path,
    *,
    metric: Metric | None = None,
    by: ComparedBy = "absolute",
    tolerance: float = DEFAULT_TOLERANCE,
) -> Baseline:
    """Read an earlier report to compare with, by default by `steadiest_metric`.

    Raises:
        ArtifactError: no report, or one of a single round, whose figures have no spread.
        InferenceError: a latency of the offline scenario, which sends everything at once, or a tolerance that is no
            number from 0.
    """
    if not 0 <= tolerance < float("inf"):
        raise InferenceError(f"the tolerance must be a number from 0, not {tolerance}", remedy="for example 0.05")
    report = read_report(folder)
    scenario = report.settings.scenario
    if scenario == "offline" and metric not in (None, "throughput"):
        raise InferenceError("the offline scenario has no latency to compare", remedy="leave out --metric")
    if len(report.reference.rounds) < 2:
        raise ArtifactError(
            "the report is of one round, so nothing tells how much of it is noise",
            where=folder,
            remedy="measure it with --rounds 5",
        )
    return Baseline(folder, report, metric or steadiest_metric(scenario), by, tolerance)


def settings_of_baseline(baseline: Baseline, settings: ScenarioSettings) -> ScenarioSettings:
    """Return the settings to measure with: a server's targets, where they are left open, are those of the report.

    Raises:
        ArtifactError: the report was measured under settings whose figures mean something else.
    """
    earlier = baseline.report.settings
    settings = settings.model_copy(
        update={name: getattr(earlier, name) for name in _TARGETS if getattr(settings, name) is None}
    )
    for name in (*_SAME_SETTINGS, *_TARGETS):
        before, now = getattr(earlier, name), getattr(settings, name)
        if before != now:
            raise ArtifactError(
                f"measured with {name.replace('_', ' ')} {before}, and now it is {now}",
                where=baseline.folder,
                remedy="use the report's settings, or make a new baseline",
            )
    return settings


def comparison_notes(
    baseline: Baseline, plans: Sequence[MeasuredPlan], settings: ScenarioSettings, machine: Machine, rounds: int
) -> tuple[str, ...]:
    """Say what differs from the report without making the comparison meaningless.

    Raises:
        ArtifactError: figures of another machine compared as they are, no plan of the report's labels, plans that take
            other images, or too few rounds.
    """
    if rounds < 2:
        raise ArtifactError(
            "one round cannot be compared: it has no spread", where=baseline.folder, remedy="pass --rounds 5"
        )
    earlier = baseline.report
    known = {contender.label: contender for contender in earlier.contenders}
    common = [plan for plan in plans if plan.label in known]
    _check_labels(baseline, plans, common)
    notes = [f"{plan.label} is not in the baseline" for plan in plans if plan.label not in known]
    measured = {plan.label for plan in plans}
    notes += [f"{label} of the baseline was not measured" for label in known if label not in measured]
    for plan in common:
        notes += _plan_notes(baseline, known[plan.label], plan)
    notes += _machine_notes(baseline, machine)
    if earlier.settings.cuda != settings.cuda:
        notes.append(f"CUDA was {cuda_text(earlier.settings.cuda)}, now {cuda_text(settings.cuda)}")
    return tuple(notes)


def _check_labels(baseline: Baseline, plans: Sequence[MeasuredPlan], common: Sequence[MeasuredPlan]) -> None:
    first = baseline.report.reference.label
    if not common:
        labels = ", ".join(contender.label for contender in baseline.report.contenders)
        raise ArtifactError(
            f"no plan of the same name: the report has {labels}",
            where=baseline.folder,
            remedy="plans are matched by the names of their folders",
        )
    if baseline.by == "relative" and (plans[0].label != first or len(common) < 2):
        raise ArtifactError(
            "speed-ups can be compared only over the same first plan, and with another plan in both",
            where=baseline.folder,
            remedy=f"pass {first} first, then others of the report",
        )


def _plan_notes(baseline: Baseline, before: MeasuredPlan, now: MeasuredPlan) -> list[str]:
    if before.input_shape != now.input_shape:
        raise ArtifactError(
            f"{now.label} took images of {list(before.input_shape)}, and now takes {list(now.input_shape)}",
            where=baseline.folder,
            remedy="make a new baseline",
        )
    if baseline.by == "absolute" and _hardware(before) != _hardware(now):
        raise _foreign(baseline, ", ".join(_hardware(before)), ", ".join(_hardware(now)))
    changed = [name for name in _SAME_PLAN if getattr(before, name) != getattr(now, name)]
    if changed:
        return [
            f"{now.label}: {name.replace('_', ' ')} was {_plain(getattr(before, name))},"
            f" now {_plain(getattr(now, name))}"
            for name in changed
        ]
    return [f"{now.label} was built anew"] if before.plan_sha256 != now.plan_sha256 else []


def _hardware(plan: MeasuredPlan) -> list[str]:
    return [f"{device.device} {device.name}" for device in plan.devices]


def _plain(value: object) -> str:
    return str(value).replace("=", " ")


def _machine_notes(baseline: Baseline, machine: Machine) -> list[str]:
    before = baseline.report.machine
    if before.capability is None:
        # An earlier version made the report, which leaves only the name to compare.
        machine = machine.model_copy(update={"capability": None})
    hardware = [f"{entry.processor} with {entry.usable_cores} usable cores" for entry in (before, machine)]
    if hardware[0] != hardware[1]:
        if baseline.by == "absolute":
            raise _foreign(baseline, *hardware)
        return [f"measured on {hardware[0]}, now on {hardware[1]}"]
    packages = sorted({*before.packages, *machine.packages})
    versions = [(name, before.packages.get(name, "none"), machine.packages.get(name, "none")) for name in packages]
    versions += [("Python", before.python, machine.python), ("system", before.system, machine.system)]
    return [f"{name} was {old}, now {new}" for name, old, new in versions if old != new]


def _foreign(baseline: Baseline, before: str, now: str) -> ArtifactError:
    return ArtifactError(
        f"measured on {before}, and this is {now}: milliseconds of different hardware do not compare",
        where=baseline.folder,
        remedy="make a baseline here, or compare speed-ups over the first plan: --compare relative",
    )


def compare_with(baseline: Baseline, contenders: Sequence[Contender], notes: Sequence[str]) -> Comparison:
    """Compare every contender that the earlier report has too; `notes` are those of `comparison_notes`."""
    earlier = {contender.label: contender for contender in baseline.report.contenders}
    metric = baseline.metric
    common = [contender for contender in contenders if contender.label in earlier]

    def figures(contender: Contender, first: Contender) -> list[float]:
        values = round_values(contender.rounds, metric)
        if baseline.by == "absolute":
            return values
        return list(speed_ups(metric, values, round_values(first.rounds, metric)))

    is_better_higher = baseline.by == "relative" or metric == "throughput"
    changes = [
        change_of(
            contender.label,
            figures(earlier[contender.label], baseline.report.reference),
            figures(contender, contenders[0]),
            is_better_higher=is_better_higher,
            tolerance=baseline.tolerance,
        )
        for contender in common
        if baseline.by == "absolute" or contender is not contenders[0]
    ]
    turned = [entry for entry in common if earlier[entry.label].is_valid and not entry.is_valid]
    return Comparison(
        created=baseline.report.created,
        tool_version=baseline.report.tool_version,
        by=baseline.by,
        metric=metric,
        tolerance=baseline.tolerance,
        changes=tuple(changes),
        notes=(*notes, *(f"LoadGen called {entry.label} VALID before, and INVALID now" for entry in turned)),
    )


def change_of(
    label: str, before: Sequence[float], after: Sequence[float], *, is_better_higher: bool, tolerance: float
) -> Change:
    """Compare the rounds' figures of two runs, at least two rounds each."""
    old, new = (after, before) if is_better_higher else (before, after)
    slowdown = geometric_mean(new) / geometric_mean(old)
    interval = change_interval(old, new)
    return Change(
        contender=label,
        before=geometric_mean(before),
        after=geometric_mean(after),
        slowdown=slowdown,
        interval=interval,
        finding=_finding(slowdown, interval, 1 + tolerance),
    )


def _finding(slowdown: float, interval: Interval, bound: float) -> ChangeFinding:
    if interval[0] <= 1 <= interval[1]:
        return "within the noise"
    if 1 / bound <= slowdown <= bound:
        return "within the tolerance"
    return "slower" if slowdown > 1 else "faster"
