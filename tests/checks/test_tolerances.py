"""Tolerances: the coarser side decides, what was asked for replaces them, and int8 is held to classes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from parnet_deploy.artifacts.golden import ImageSet, ImageSource
from parnet_deploy.artifacts.schemas import Precision
from parnet_deploy.checks.compare import compare
from parnet_deploy.checks.departure import GROWTH
from parnet_deploy.checks.images import random_beside_real
from parnet_deploy.checks.tolerances import TOLERANCES, tolerance_for
from parnet_deploy.errors import EngineError
from tests.checks.test_compare import FixedPredictor

# Rounding of one operation: half a unit in the last place of numbers of order one.
ROUNDING = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}


def test_the_table() -> None:
    assert list(TOLERANCES) == ["fp32", "fp16", "bf16", "int8", "fp8"]
    assert set(Precision.__args__) <= set(TOLERANCES)  # type: ignore[attr-defined]
    for name, bound in TOLERANCES.items():
        assert bound.precision == name
        assert bound.reason
    for finer, coarser in itertools.pairwise(list(TOLERANCES.values())[:3]):
        assert finer.layer < coarser.layer < 1  # type: ignore[operator]
        assert finer.logits < coarser.logits < 1  # type: ignore[operator]
        assert finer.noise < coarser.noise


@pytest.mark.parametrize("name", ROUNDING)
def test_each_allows_the_rounding_of_twelve_layers_and_no_more_than_that_needs(name: str) -> None:
    bound = TOLERANCES[name]
    assert bound.logits is not None
    assert bound.layer is not None
    # At least one rounding for each layer; at most a few hundred, or a thousand where pooling sums 50,000 pixels.
    assert 12 * ROUNDING[name] < bound.logits < 2000 * ROUNDING[name]
    assert bound.logits <= bound.layer
    # A jump that is called growth lies within what a layer may differ by: otherwise it would never be said.
    assert ROUNDING[name] < bound.noise < bound.layer / GROWTH
    assert bound.absolute < bound.layer / 100


@pytest.mark.parametrize(("a", "b"), list(itertools.combinations_with_replacement(TOLERANCES, 2)))
def test_the_coarser_side_sets_the_tolerance(a: str, b: str) -> None:
    assert tolerance_for(a, b) == tolerance_for(b, a) == TOLERANCES[b]


def test_what_was_asked_for_replaces_what_is_allowed() -> None:
    found = tolerance_for("fp32", "int8", 0.25)
    assert (found.layer, found.logits, found.absolute, found.agreement) == (0.25, 0.25, 0.0, None)
    assert found.precision == "int8"
    assert found.reason == ""
    with pytest.raises(EngineError, match="no tolerance is known for fp4"):
        tolerance_for("fp32", "fp4")


@pytest.mark.parametrize(("agreeing", "passed"), [(100, True), (98, True), (97, False)])
def test_int8_is_held_to_classes_and_not_to_differences(agreeing: int, passed: bool) -> None:
    logits = np.tile([[1.0, 0.0]], (100, 1))
    quantized = logits + 0.3
    quantized[agreeing:] = [0.0, 1.0]
    a, b = FixedPredictor(logits), FixedPredictor(quantized, precision="int8")
    (found,) = compare(a, b, {"x": np.zeros((100, 3, 8, 8))})
    assert found.top1_agreement == agreeing / 100
    assert found.logits.passed
    assert found.tolerance is None
    assert found.passed == passed


def test_classes_are_judged_on_noise_only_where_there_is_nothing_else() -> None:
    logits = np.tile([[1.0, 0.0]], (10, 1))
    a, b = FixedPredictor(logits), FixedPredictor(1 - logits, precision="int8")
    images = {"real": np.zeros((10, 3, 8, 8)), "random": np.zeros((10, 3, 8, 8))}
    real, random = compare(a, b, images, reported={"random"})
    assert (real.top1_agreement, real.agreement, real.passed) == (0.0, 0.98, False)
    assert (random.top1_agreement, random.agreement, random.passed) == (0.0, None, True)

    def a_set(name: str, source: ImageSource) -> ImageSet:
        return ImageSet(name=name, source=source, count=1, sha256="0" * 64)

    real_sets = [a_set("photographs", "photographs"), a_set("digits", "digits"), a_set("files", "files")]
    noise = a_set("random", "synthetic")
    assert random_beside_real([noise]) == frozenset()
    assert all(random_beside_real([real_set, noise]) == {"random"} for real_set in real_sets)


def test_not_a_number_fails_without_a_tolerance() -> None:
    a = FixedPredictor(np.array([[1.0, 0.0]]))
    b = FixedPredictor(np.array([[1.0, np.nan]]), precision="int8")
    assert not compare(a, b, {"x": np.zeros((1, 3, 8, 8))})[0].passed
