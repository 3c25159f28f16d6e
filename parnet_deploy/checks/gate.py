"""Verify artefacts by their paths: two with each other, or one with what a golden file remembers."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import refuse_file
from parnet_deploy.artifacts.golden import Golden, read_golden, write_golden
from parnet_deploy.artifacts.verification import Verification
from parnet_deploy.checks.compare import Detail, compare
from parnet_deploy.checks.golden import changes_since, compare_golden, make_golden
from parnet_deploy.checks.images import comparison_images, random_beside_real
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.checks.provenance import describe_environment
from parnet_deploy.checks.tolerances import tolerance_for
from parnet_deploy.checks.verification import make_verification
from parnet_deploy.runtime.answers import require_finite

DEFAULT_COUNT = 4


def verify_artefacts(
    a: Path,
    b: Path,
    *,
    data: str | None = None,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    detail: Detail = "logits",
    tolerance: float | None = None,
) -> Verification:
    """Compare two artefacts on real and random images; `a` is the reference.

    Raises:
        ArtifactError: no artefact, or a damaged one.
        CheckFailedError: artefacts of different networks. Numbers that differ raise nothing: see `passed`.
        DataError: images that cannot be read.
    """
    with open_predictor(a) as first, open_predictor(b) as second:
        # The later artefact may have been exported at a resolution of its own.
        preprocessing = second.preprocessing if second.kind != "checkpoint" else first.preprocessing
        sets = comparison_images(preprocessing, data, count, seed)
        images = {entry.name: entry.pixels for entry in sets}
        reported = random_beside_real([entry.record() for entry in sets])
        comparisons = compare(first, second, images, detail=detail, tolerance=tolerance, reported=reported)
        bound = tolerance_for(first.precision, second.precision, tolerance)
        return make_verification(first.record, second.record, first.network, comparisons, bound)


def verify_golden(
    artefact: Path, golden_path: Path, *, data: str | None = None, tolerance: float | None = None
) -> Verification:
    """Compare an artefact with a golden file, on the images and within the tolerance that the file says.

    `data` is where the images are if it was written for files; `tolerance` replaces the file's.

    Raises:
        ArtifactError: no golden file or artefact, or a damaged one, or a golden file of another schema version.
        CheckFailedError: an artefact of another network. Numbers that differ raise nothing: see `passed`.
        DataError: images that cannot be had, or are others.
    """
    golden = read_golden(golden_path)
    with open_predictor(artefact) as predictor:
        given = golden.tolerance if tolerance is None else tolerance
        bound = tolerance_for(golden.artefact.precision, predictor.precision, given)
        comparisons = compare_golden(golden, predictor, bound, data)
        changes = changes_since(golden, predictor.record, describe_environment())
        return make_verification(
            golden.artefact, predictor.record, golden.network, comparisons, bound, changes=changes, is_golden=True
        )


def remember(
    artefact: Path,
    golden_path: Path,
    *,
    data: str | None = None,
    count: int = DEFAULT_COUNT,
    seed: int = 0,
    tolerance: float | None = None,
    force: bool = False,
) -> Golden:
    """Write what an artefact answers to random images, and to those of `data`, into a golden file.

    Raises:
        ArtifactError: no artefact, or a damaged one; a file that exists, would be too large or cannot be written.
        DataError: images that cannot be read.
        InferenceError: logits that are not finite; no comparison with them could pass.
    """
    refuse_file(golden_path, force=force)
    with open_predictor(artefact) as predictor:
        # Photographs are decoded by a library; random images come out the same on every machine.
        images = comparison_images(predictor.preprocessing, data, count, seed, with_photographs=False)
        golden = make_golden(predictor, images, tolerance)
        for entry in golden.sets:
            require_finite(entry.logits.unpack(), artefact)
    write_golden(golden_path, golden, force=force)
    return golden
