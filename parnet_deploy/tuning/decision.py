"""Decide which candidate becomes the plan; pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from parnet_deploy.artifacts.tuning import TuningLimits
from parnet_deploy.bench.statistics import finding_of
from parnet_deploy.errors import CheckFailedError, InferenceError
from parnet_deploy.tuning.halving import MARGIN, Trial

_MIB = 2**20


@dataclass(frozen=True)
class Decision:
    """The choice, the best one that is no split, and why in a sentence."""

    chosen: Trial
    best_single: Trial | None
    reason: str


def score_of(trial: Trial, limits: TuningLimits) -> float:
    """Return what is to be as small as possible: milliseconds of a request, or for throughput of an image."""
    if limits.objective == "throughput":
        return trial.latency_ms / trial.candidate.bundle.batch
    return trial.latency_ms


def race_score(trial: Trial, limits: TuningLimits) -> float:
    """Return the score by which candidates stay in the race: infinite for those that are clearly over a budget."""
    if limits.max_latency_ms is not None and trial.latency_ms > (1 + MARGIN) * limits.max_latency_ms:
        return math.inf
    if _excess_bytes(trial, limits):
        return math.inf
    return score_of(trial, limits)


def decide(trials: Sequence[Trial], limits: TuningLimits) -> Decision:
    """Choose the fastest of those still running that keep the budgets of latency and memory.

    A split is chosen only if it beats the best candidate that is none in every round and beyond the confidence
    interval; else that one is chosen. So the choice is never slower than the best single one.

    Raises:
        InferenceError: nothing could be measured.
        CheckFailedError: nothing keeps the budgets.
    """
    measured = [trial for trial in trials if trial.failure is None and trial.measurements]
    if not measured:
        reasons = sorted({trial.failure for trial in trials if trial.failure is not None})
        raise InferenceError("no candidate could be measured", remedy="; ".join(reasons) or None)
    running = [trial for trial in measured if trial.is_running and not over_budget(trial, limits)]
    if not running:
        # Of those that keep the memory, the fastest; where none does, the smallest.
        nearest = min(measured, key=lambda trial: (_excess_bytes(trial, limits), trial.latency_ms))
        raise CheckFailedError(
            f"no candidate keeps the budget; of the nearest, {nearest.candidate.label}, {over_budget(nearest, limits)}",
            remedy="allow more, or give bundles of other precisions or batch sizes",
        )
    ranked = sorted(running, key=lambda trial: score_of(trial, limits))
    single = next((trial for trial in ranked if not trial.candidate.is_split), None)
    if single is None:
        return Decision(ranked[0], None, "nothing but splits keeps the budget")
    chosen, reason = _weigh(ranked, single, limits)
    if len(single.rounds_ms) == 1:
        reason += ", by one round only: a larger budget tells more"
    return Decision(chosen, single, reason)


def over_budget(trial: Trial, limits: TuningLimits) -> str | None:
    """Return by how much a measured trial is over the budget of memory or latency, if it is."""
    if limits.max_memory_mib is not None and _excess_bytes(trial, limits):
        return f"{trial.peak_bytes / _MIB:.0f} MiB are over the budget of {limits.max_memory_mib:g} MiB"
    if limits.max_latency_ms is not None and trial.latency_ms > limits.max_latency_ms:
        return f"{trial.latency_ms:.3g} ms are over the budget of {limits.max_latency_ms:g} ms"
    return None


def _excess_bytes(trial: Trial, limits: TuningLimits) -> float:
    most = math.inf if limits.max_memory_mib is None else limits.max_memory_mib * _MIB
    return max(0.0, trial.peak_bytes - most)


def _weigh(ranked: Sequence[Trial], single: Trial, limits: TuningLimits) -> tuple[Trial, str]:
    """Return the best split that proves itself against the best single choice, or else that, and why."""
    best = ranked[0]
    if best is single:
        return single, f"{single.candidate.label} is the fastest"
    for split in ranked[: ranked.index(single)]:
        ratios = paired_ratios(split, single, limits)
        if ratios and finding_of(ratios) == "faster":
            text = f"{split.candidate.label} beats the best single choice, {single.candidate.label}, in every round"
            return split, f"{text}: {median(ratios):.2f} times as fast"
    return single, (
        f"{best.candidate.label} is not faster than {single.candidate.label} beyond the noise, so the simpler one is "
        "chosen"
    )


def paired_ratios(trial: Trial, other: Trial, limits: TuningLimits) -> list[float]:
    """Return how many times better a trial was than another, round by round."""
    per_image = limits.objective == "throughput"
    scale = trial.candidate.bundle.batch / other.candidate.bundle.batch if per_image else 1.0
    return [theirs * scale / mine for mine, theirs in zip(trial.rounds_ms, other.rounds_ms, strict=False)]
