"""Accuracy as a condition: what is measured of it, who is refused for it, and in which order precisions are tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from parnet_deploy.artifacts.tuning import TuningLimits
from parnet_deploy.checks.evaluate import evaluate, load_labelled
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.checks.tolerances import TOLERANCES
from parnet_deploy.errors import ParNetError
from parnet_deploy.tuning.candidates import Candidate
from parnet_deploy.tuning.workshop import Workshop


def measure_accuracies(
    candidates: Sequence[Candidate], workshop: Workshop, data: str, tell: Callable[[str], None]
) -> dict[str, float]:
    """Return each candidate's top-1 accuracy in percent by its label; those that cannot be built are left out.

    Partitions, arrangements and batches change no number, so one plan of each precision and backend is evaluated.

    Raises:
        DataError: no such data, or labels that the network does not have.
    """
    images = load_labelled(data, held_out=True)
    found: dict[tuple[str, str], float] = {}
    accuracies: dict[str, float] = {}
    for candidate in candidates:
        kind = candidate.bundle.precision, candidate.backend
        if kind not in found:
            try:
                plan = workshop.plan_of(candidate)
            except ParNetError:
                continue
            tell(f"accuracy of {candidate.bundle.precision} by {candidate.backend} on {len(images)} images")
            with open_predictor(plan) as predictor:
                found[kind] = evaluate(predictor, images).top1
        accuracies[candidate.label] = found[kind]
    return accuracies


def accuracy_refusals(top1: Mapping[str, float], limits: TuningLimits) -> dict[str, str]:
    """Return why candidates are refused, by label: those further below the best than the budget allows."""
    if limits.max_drop is None or not top1:
        return {}
    best = max(top1.values())
    drops = {label: best - accuracy for label, accuracy in top1.items()}
    return {
        label: f"{drop:.2f} points of accuracy below the best, over the budget of {limits.max_drop:g}"
        for label, drop in drops.items()
        if drop > limits.max_drop
    }


def race_groups(
    candidates: Sequence[Candidate], top1: Mapping[str, float], limits: TuningLimits
) -> list[list[Candidate]]:
    """Return the candidates that compete with each other, group after group.

    With a latency budget the most accurate precision that keeps it wins, whatever others would save; so precisions
    race one after another, the most accurate first. Without one all race together.
    """
    if limits.max_latency_ms is None or limits.objective == "throughput":
        return [list(candidates)] if candidates else []

    finest_first = tuple(TOLERANCES)

    def rank(candidate: Candidate) -> tuple[float, int]:
        return -top1.get(candidate.label, 0.0), finest_first.index(candidate.bundle.precision)

    ranks = sorted({rank(candidate) for candidate in candidates})
    return [[candidate for candidate in candidates if rank(candidate) == wanted] for wanted in ranks]
