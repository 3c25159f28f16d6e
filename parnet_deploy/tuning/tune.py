"""Tune: measure what bundles, backends and arrangements give on this machine, and write the best plan."""

from __future__ import annotations

import datetime
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from parnet_deploy import __version__
from parnet_deploy.artifacts.files import holds, refuse_folder
from parnet_deploy.artifacts.tuning import Status, Tried, TuningLimits, TuningReport
from parnet_deploy.errors import CheckFailedError, ParNetError
from parnet_deploy.tuning.accuracy import accuracy_refusals, measure_accuracies, race_groups
from parnet_deploy.tuning.cache import cache_key, read_cached, write_cached
from parnet_deploy.tuning.candidates import Candidate
from parnet_deploy.tuning.decision import Decision, decide, over_budget, race_score
from parnet_deploy.tuning.find_crossover import find_crossover
from parnet_deploy.tuning.halving import Measure, Measurement, Trial, successive_halving
from parnet_deploy.tuning.measure import TimePlan, time_in_process
from parnet_deploy.tuning.publish import write_tuned_plan
from parnet_deploy.tuning.question import Question, ask
from parnet_deploy.tuning.workshop import Workshop

# Told what is being done, and about how many seconds are left of the budget; 0 where that is not known.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class TuneOptions:
    """What to choose by, from which backends, and where earlier results are kept (`None`: nowhere).

    With `crossover` it is also found out from how many cores on a split would win.
    """

    limits: TuningLimits = field(default_factory=lambda: TuningLimits(budget_s=180.0))
    backends: tuple[str, ...] | None = None
    cache_dir: Path | None = None
    crossover: bool = True


@dataclass(frozen=True)
class Tuned:
    """The report, and whether it came from the cache."""

    report: TuningReport
    is_cached: bool


def tune(
    bundles: Sequence[Path],
    output: Path,
    options: TuneOptions | None = None,
    *,
    force: bool = False,
    on_progress: Progress = lambda *_: None,
    time_plan: TimePlan = time_in_process,
) -> Tuned:
    """Write the best plan of several bundles of one network to `output`, and return what was tried.

    Bundles may differ in partition, precision and batch; a whole one is also cut. `time_plan` is how a plan is timed,
    by default in a child process.

    Raises:
        ArtifactError: a damaged bundle, bundles of different networks, or an output that cannot be written.
        OutputExistsError: the output exists and `force` is not set.
        EngineError: an unknown backend, or the chosen plan cannot be built.
        MissingDependencyError: none of the backends is installed, or one that was named is not.
        InferenceError: no candidate could be measured.
        CheckFailedError: no candidate keeps the latency or accuracy budget.
    """
    options = options or TuneOptions()
    refuse_folder(output, force=force, is_ours=holds("plan.json"))
    question = ask(bundles, options.backends, spend_memory=options.limits.max_memory_mib is not None)
    key = cache_key(question, options.limits, with_crossover=options.crossover)
    report = None if options.cache_dir is None else read_cached(options.cache_dir, key)
    is_cached = report is not None
    with _workshop_beside(output, question, on_progress) as workshop:
        if report is None:
            report = _answer(question, options, workshop, time_plan, on_progress)
        chosen = next(entry for entry in question.candidates() if entry.label == report.chosen.label)
        parent = question.sources[chosen.bundle.label].bundle.as_parent()
        write_tuned_plan(workshop.plan_of(chosen), output, report, parent, force=force)
    if options.cache_dir is not None and not is_cached:
        write_cached(options.cache_dir, key, report)
    return Tuned(report, is_cached)


@contextmanager
def _workshop_beside(output: Path, question: Question, on_progress: Progress) -> Iterator[Workshop]:
    """Yield a workshop in a temporary folder beside the output, where its engines can be linked and not copied."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.tuning-", dir=output.parent))
    try:
        yield Workshop(folder, question.sources, lambda what: on_progress(f"building {what}", 0.0))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _answer(
    question: Question, options: TuneOptions, workshop: Workshop, time_plan: TimePlan, on_progress: Progress
) -> TuningReport:
    candidates, limits = question.candidates(), options.limits
    top1: dict[str, float] = {}
    if limits.data is not None:
        top1 = measure_accuracies(candidates, workshop, limits.data, lambda what: on_progress(what, 0.0))
    refused = accuracy_refusals(top1, limits)
    eligible = [entry for entry in candidates if entry.label not in refused]

    def measure(candidate: Candidate, seconds: float) -> Measurement:
        result = time_plan(workshop.plan_of(candidate), seconds, None)
        return Measurement(result.latency_ms, result.cold_start_ms, result.peak_bytes)

    def prepare(candidate: Candidate) -> None:
        # Not while the clock of a race runs. What cannot be built says so again when it is measured.
        with suppress(ParNetError):
            workshop.plan_of(candidate)

    decision, trials = _race(race_groups(eligible, top1, limits), limits, prepare, measure, on_progress)
    crossover = None
    if options.crossover:
        crossover = find_crossover(workshop, decision, candidates, time_plan, on_progress)
    by_label = {trial.candidate.label: trial for trial in trials}
    return TuningReport(
        tool_version=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=question.machine,
        limits=limits,
        backends=dict(question.versions),
        bundles=question.describe_bundles(),
        tried=tuple(
            _tried(
                by_label.get(entry.label, Trial(entry)),
                decision,
                limits,
                refused.get(entry.label),
                top1.get(entry.label),
            )
            for entry in candidates
        ),
        reasons=(decision.reason,),
        crossover=crossover,
    )


def _race(
    groups: Sequence[Sequence[Candidate]],
    limits: TuningLimits,
    prepare: Callable[[Candidate], None],
    measure: Measure,
    on_progress: Progress,
) -> tuple[Decision, list[Trial]]:
    """Race group after group until one keeps the latency budget; return the decision and all trials there were."""
    trials: list[Trial] = []
    failed: CheckFailedError | None = None
    for group in groups:
        for candidate in group:
            prepare(candidate)
        raced = successive_halving(
            group,
            measure,
            budget_s=limits.budget_s / len(groups),
            clock=time.monotonic,
            score=lambda trial: race_score(trial, limits),
            on_progress=lambda candidate, rung, turn, left_s: on_progress(
                f"rung {rung}, round {turn}: {candidate.label}", left_s
            ),
        )
        trials += raced
        try:
            decision = decide(raced, limits)
        except CheckFailedError as error:
            failed = failed or error
            continue
        if len(groups) > 1:
            precision = decision.chosen.candidate.bundle.precision
            first = f"{precision} is the most accurate that keeps {limits.max_latency_ms:g} ms; "
            decision = replace(decision, reason=first + decision.reason)
        return decision, trials
    raise failed or CheckFailedError("nothing keeps the accuracy budget", remedy="allow more, or give other bundles")


def _tried(trial: Trial, decision: Decision, limits: TuningLimits, refused: str | None, top1: float | None) -> Tried:
    candidate = trial.candidate
    is_measured = bool(trial.measurements)
    status, note = _status(trial, decision, limits, refused)
    return Tried(
        label=candidate.label,
        bundle=candidate.bundle.label,
        backend=candidate.backend,
        arrangement=str(candidate.arrangement),
        memory_factor=candidate.memory_factor,
        is_split=candidate.is_split,
        status=status,
        note=note,
        rounds_ms=trial.rounds_ms,
        latency_ms=trial.latency_ms if is_measured else None,
        images_per_s=1e3 * candidate.bundle.batch / trial.latency_ms if is_measured else None,
        cold_start_ms=min(entry.cold_start_ms for entry in trial.measurements) if is_measured else None,
        peak_bytes=trial.peak_bytes or None,
        top1=top1,
    )


def _status(trial: Trial, decision: Decision, limits: TuningLimits, refused: str | None) -> tuple[Status, str]:
    why_not = refused or (over_budget(trial, limits) if trial.measurements else None)
    if trial is decision.chosen:
        return "chosen", ""
    if why_not:
        return "not eligible", why_not
    if trial.failure is not None:
        return "left out", trial.failure
    if trial.dropped_after is not None:
        return "dropped", f"after rung {trial.dropped_after}"
    if not trial.measurements:
        return "left out", "a more accurate precision keeps the latency budget"
    return "measured", ""
