"""Sketches: the distance between tensors that are gone, whatever it is that differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.checks.sketch import SUMS, fingerprint, sketch, sketched_difference
from parnet_deploy.errors import CheckFailedError

RANDOM = np.random.default_rng(11)
TENSOR = RANDOM.standard_normal((3, 16, 14, 14)).astype(np.float32)


def test_the_signs_are_the_same_on_every_machine() -> None:
    # One number in each place of the first sums: their signs are the stream's first bits.
    found = sketch(np.ones((1, SUMS)))[0]
    assert set(found.tolist()) == {1.0, -1.0}
    assert "".join("+" if value > 0 else "-" for value in found) == (
        "+-+------+++++-+--++++-+--+--++---++-------+-+--++++-----+-+++--"
    )


def test_sketches_subtract_as_tensors_do() -> None:
    other = RANDOM.standard_normal(TENSOR.shape)
    assert sketch(TENSOR - other) == pytest.approx(sketch(TENSOR) - sketch(other), abs=1e-10)
    assert sketch(TENSOR).shape == (3, SUMS)
    assert sketch(np.ones((2, 5))).shape == (2, SUMS)


def border(tensor: np.ndarray) -> None:
    tensor[:, :, 0] *= 1.01


def one_number(tensor: np.ndarray) -> None:
    tensor[1, 3, 2, 2] += 1


def one_sign(tensor: np.ndarray) -> None:
    tensor[:, 4] *= -1


def swapped(tensor: np.ndarray) -> None:
    tensor[:, [2, 9]] = tensor[:, [9, 2]]


def scaled(tensor: np.ndarray) -> None:
    tensor *= 1 + 1e-5


def noise(tensor: np.ndarray) -> None:
    tensor += 1e-3 * np.random.default_rng(5).standard_normal(tensor.shape)


@pytest.mark.parametrize("change", [border, one_number, one_sign, swapped, scaled, noise])
def test_every_kind_of_difference_is_estimated(change) -> None:
    changed = TENSOR.astype(np.float64)
    change(changed)
    apart = np.linalg.norm((changed - TENSOR).reshape(3, -1), axis=1)
    truth = (apart / np.linalg.norm(TENSOR.reshape(3, -1).astype(np.float64), axis=1)).max()
    estimate = sketched_difference("t", fingerprint(TENSOR), changed).norm
    assert truth > 0
    assert estimate == pytest.approx(truth, rel=0.35)
    if change is one_number:
        assert estimate == pytest.approx(truth, rel=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_the_estimate_is_near_the_truth(seed: int) -> None:
    difference = np.random.default_rng(seed).standard_normal((1, 4000))
    estimate = np.linalg.norm(sketch(difference))
    # Five standard deviations of a chi distribution with 64 degrees of freedom.
    assert estimate == pytest.approx(np.linalg.norm(difference), rel=5 * 0.088)


def test_the_estimate_is_right_on_average() -> None:
    differences = np.random.default_rng(2).standard_normal((500, 1000)) * np.linspace(0, 1, 1000)
    ratios = (sketch(differences) ** 2).sum(axis=1) / (differences**2).sum(axis=1)
    # The mean of 500 values that spread by sqrt(2 / 64).
    assert ratios.mean() == pytest.approx(1, abs=4 * 0.177 / 500**0.5)
    assert ratios.std() == pytest.approx(0.177, rel=0.2)


def test_what_a_fingerprint_holds() -> None:
    kept = fingerprint(TENSOR)
    assert (kept.dtype, kept.shape) == ("float32", (16, 14, 14))
    assert (kept.minimum, kept.maximum) == (TENSOR.min(), TENSOR.max())
    assert kept.mean == pytest.approx(TENSOR.mean(dtype=np.float64))
    assert kept.norms == pytest.approx(np.linalg.norm(TENSOR.reshape(3, -1), axis=1), rel=1e-6)
    assert kept.sketch.unpack() == pytest.approx(sketch(TENSOR), abs=0)


def test_the_same_bytes_do_not_differ_and_one_bit_does() -> None:
    kept = fingerprint(TENSOR)
    assert sketched_difference("t", kept, TENSOR.copy(), tolerance=0.0).passed
    nudged = TENSOR.copy()
    nudged[2, 0, 0, 0] = np.nextafter(nudged[2, 0, 0, 0], np.float32(9))
    found = sketched_difference("t", kept, nudged, tolerance=0.0)
    assert not found.passed
    assert 0 < found.norm < 1e-7


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_a_number_is_infinitely_far(bad: float) -> None:
    spoilt = TENSOR.copy()
    spoilt[0, 3, 1, 1] = bad
    for kept, now in ((TENSOR, spoilt), (spoilt, TENSOR), (spoilt, spoilt)):
        found = sketched_difference("t", fingerprint(kept), now, tolerance=None)
        assert found.norm == float("inf")
        assert not found.passed
    extent = sketched_difference("t", fingerprint(TENSOR), spoilt).extent
    assert extent is not None
    assert (extent.images, extent.channels) == ((0,), (3,))


def test_near_zero_the_floor_holds_and_another_shape_is_refused() -> None:
    kept = fingerprint(np.full((1, 8), 1e-12))
    assert sketched_difference("t", kept, np.full((1, 8), -1e-12), 1e-4, absolute=1e-7).passed
    assert not sketched_difference("t", kept, np.full((1, 8), -1e-12), 1e-4).passed
    with pytest.raises(CheckFailedError, match=r"t has shape \[9\], and had \[8\]"):
        sketched_difference("t", kept, np.zeros((1, 9)))
