"""Measure how stages scale on the cores at hand, and say from how many cores on a split would win."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.tuning import Crossover, CrossoverPoint
from parnet_deploy.engines.cpu import usable_cores
from parnet_deploy.errors import ParNetError
from parnet_deploy.planning.arrangement import Arrangement
from parnet_deploy.tuning.candidates import Candidate
from parnet_deploy.tuning.crossover import core_counts, fit_scaling, predict_split_ms, wins_from
from parnet_deploy.tuning.decision import Decision
from parnet_deploy.tuning.measure import TimePlan
from parnet_deploy.tuning.workshop import Workshop

_SECONDS = 1.0


def find_crossover(
    workshop: Workshop,
    decision: Decision,
    candidates: Sequence[Candidate],
    time_plan: TimePlan,
    on_progress: Callable[[str, float], None],
) -> Crossover | None:
    """Compare the whole network with a split one by number of cores; None unless both were among the candidates.

    The backend is the chosen one, or else the first that can run stages at the same time.
    """
    pair = _pair(decision.chosen.candidate, candidates)
    if pair is None:
        return None
    whole, split = pair
    at_hand = len(usable_cores())
    counts = core_counts(at_hand)
    measured = [cores for cores in counts if cores <= at_hand]
    whole_ms: dict[int, float] = {}
    split_ms: dict[int, float] = {}
    stage_ms: dict[int, dict[str, float]] = {}
    try:
        for cores in measured:
            on_progress(f"crossover: {cores} of {at_hand} cores", 0.0)
            in_turn, side_by_side = Arrangement(cores), Arrangement(cores, "side by side")
            plans = [
                workshop.arranged(candidate, arrangement)
                for candidate, arrangement in ((whole, in_turn), (split, side_by_side), (split, in_turn))
            ]
            results = [time_plan(plan, _SECONDS, cores) for plan in plans]
            whole_ms[cores], split_ms[cores] = results[0].latency_ms, results[1].latency_ms
            stage_ms[cores] = results[2].stage_ms
    except ParNetError:
        return None
    plan = open_plan(workshop.plan_of(split)).manifest
    whole_scaling = fit_scaling(whole_ms)
    scalings = {
        stage.name: fit_scaling({cores: times[stage.name] for cores, times in stage_ms.items()})
        for stage in plan.stages
    }
    points = []
    for cores in counts:
        if cores in measured:
            points.append((cores, whole_ms[cores], split_ms[cores]))
        else:
            points.append((cores, whole_scaling.on(cores), predict_split_ms(plan, scalings, cores)))
    return Crossover(
        backend=whole.backend,
        whole=whole.bundle.label,
        split=split.bundle.label,
        points=tuple(
            CrossoverPoint(cores=cores, whole_ms=whole_time, split_ms=split_time, is_measured=cores in measured)
            for cores, whole_time, split_time in points
        ),
        wins_from=wins_from(points),
        basis=(
            f"PREDICTED beyond {at_hand} cores: times on {', '.join(map(str, measured))} cores, fitted by a + b / k "
            "and played through the schedule; shared memory bandwidth and caches are not modelled"
        ),
    )


def _pair(chosen: Candidate, candidates: Sequence[Candidate]) -> tuple[Candidate, Candidate] | None:
    """Return a whole and a split candidate of one backend, precision and batch: the chosen backend's if it has both."""

    def rank(candidate: Candidate) -> tuple[bool, bool, bool]:
        bundle = candidate.bundle
        return (
            candidate.backend != chosen.backend,
            bundle.precision != chosen.bundle.precision,
            bundle.batch != chosen.bundle.batch,
        )

    plain = Arrangement(len(usable_cores()), "side by side")
    splits = [entry for entry in candidates if entry.is_split and entry.arrangement == plain and not entry.on_gpu]
    for split in sorted(splits, key=rank):
        for whole in candidates:
            same = (whole.backend, whole.bundle.precision, whole.bundle.batch) == (
                split.backend,
                split.bundle.precision,
                split.bundle.batch,
            )
            if same and whole.bundle.stages == 1:
                return whole, split
    return None
