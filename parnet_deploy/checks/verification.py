"""Gather what a verification found into one record, and say it in sentences."""

from __future__ import annotations

import datetime
import math

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.artifacts.verification import (
    ArtefactRecord,
    Change,
    Comparison,
    Difference,
    Tolerance,
    Verification,
)
from parnet_deploy.checks.departure import short
from parnet_deploy.checks.provenance import describe_environment
from parnet_deploy.planning.layers import network_layers


def make_verification(
    a: ArtefactRecord,
    b: ArtefactRecord,
    network: NetworkConfig,
    comparisons: tuple[Comparison, ...],
    tolerance: Tolerance,
    *,
    changes: tuple[Change, ...] = (),
    is_golden: bool = False,
) -> Verification:
    """Return the record of a verification that has just been made."""
    return Verification(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        a=a,
        b=b,
        is_golden=is_golden,
        environment=describe_environment(),
        changes=changes,
        tolerance=tolerance,
        num_blocks=len({layer.block for layer in network_layers(network)}),
        comparisons=comparisons,
        passed=all(comparison.passed for comparison in comparisons),
    )


def entries_of(comparison: Comparison) -> tuple[Difference, ...]:
    """Return every tensor that was compared on a set of images, each once, the logits last."""
    return comparison.layers or (*comparison.stages, comparison.logits)


def is_identical(verification: Verification) -> bool:
    """Tell whether not a single bit differs."""
    return all(entry.size == 0 for comparison in verification.comparisons for entry in entries_of(comparison))


def verdict(verification: Verification) -> str:
    """Return the outcome in one line."""
    bound = verification.tolerance
    if verification.passed and is_identical(verification):
        return "identical to the bit"
    if bound.logits is None:
        outcome = "agree" if verification.passed else "DISAGREE"
        judged = " and ".join(entry.images for entry in verification.comparisons if entry.agreement is not None)
        return f"{outcome}: at least {bound.agreement or 0:.0%} of the {judged} images must get the same class"
    return f"{'same' if verification.passed else 'DIFFERENT'} within {bound.logits:.0e} relative"


def findings(verification: Verification) -> tuple[str, ...]:
    """State what departs first on each set of images, and what could not be told apart."""
    sentences = [
        f"on {comparison.images} images, {comparison.departure.sentence}"
        for comparison in verification.comparisons
        if comparison.departure is not None
    ]
    if verification.comparisons[0].layers:
        sentences.append(_coverage(verification))
    return tuple(sentences)


def _coverage(verification: Verification) -> str:
    apart = {layer.blocks for layer in verification.comparisons[0].layers if len(layer.blocks) == 1}
    count = verification.num_blocks
    if len(apart) == count:
        return f"each of the {count} blocks was compared on its own"
    return f"{len(apart)} of {count} blocks were compared on their own; what the others make, the engine does not show"


def failure(verification: Verification) -> str:
    """Say in one sentence why a verification failed."""
    judged = [comparison for comparison in verification.comparisons if not comparison.passed]
    departed = [comparison.departure for comparison in judged if comparison.departure is not None]
    if departed:
        return departed[0].sentence
    failed = [entry for comparison in judged for entry in entries_of(comparison) if not entry.passed]
    if failed:
        return describe_failure(max(failed, key=lambda entry: entry.size))
    least = min(judged, key=lambda comparison: comparison.top1_agreement)
    return f"only {least.top1_agreement:.1%} of the images get the same class, {least.agreement:.0%} are required"


def describe_failure(entry: Difference) -> str:
    """Say how far a tensor is beyond its tolerance."""
    if math.isinf(entry.size) or entry.tolerance is None:
        return f"{entry.name} holds numbers that are not finite"
    return f"{entry.name} differs by {short(entry.size)} relative, beyond {entry.tolerance:.0e}"
