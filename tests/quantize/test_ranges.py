"""Ranges from histograms: what each method promises, on drawn distributions and on ones with outliers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parnet_deploy.quantize.grids import INT8, UINT8, Grid, from_grid, steps_for, to_grid
from parnet_deploy.quantize.ranges import METHODS, Histogram, percentile_range, rounding_error

Values = np.ndarray


def histogram_of(values: Values, parts: int = 3) -> Histogram:
    """Return the histogram of values, added in parts."""
    seen = Histogram(float(values.min()), float(values.max()))
    for part in np.array_split(values, parts):
        seen.add(part)
    return seen


def silu(x: Values) -> Values:
    return x / (1 + np.exp(-x))


def error_on(values: Values, span: tuple[float, float], grid: Grid) -> float:
    steps = steps_for(*span, grid)
    return float(((from_grid(to_grid(values, steps, grid), steps) - values) ** 2).mean())


DISTRIBUTIONS = {
    "normal": lambda r: r.standard_normal(30_000),
    "silu": lambda r: silu(2 * r.standard_normal(30_000)),
    "relu": lambda r: np.maximum(r.standard_normal(30_000), 0),
    "laplace": lambda r: r.laplace(size=30_000),
    "uniform": lambda r: r.uniform(-3, 5, 30_000),
    "outlier": lambda r: np.append(silu(r.standard_normal(30_000)), 60.0),
    "constant": lambda _: np.full(100, 0.7),
    "negative": lambda r: -np.abs(r.standard_normal(30_000)) - 1,
}


@pytest.mark.parametrize("grid", [UINT8, INT8], ids=["uint8", "int8"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ranges_lie_within_what_was_seen(name: str, grid: Grid) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(0)).astype(np.float32)
    seen = histogram_of(values)
    assert seen.counts.sum() == len(values)
    for method, choose in METHODS.items():
        low, high = choose(seen, grid)
        assert seen.low - 1e-6 <= low <= high <= seen.high + 1e-6, method
        assert np.isfinite(error_on(values, (low, high), grid))
    assert METHODS["min-max"](seen, grid) == (seen.low, seen.high)


@pytest.mark.parametrize("grid", [UINT8, INT8], ids=["uint8", "int8"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_least_error_is_never_worse_than_min_max(name: str, grid: Grid) -> None:
    values = DISTRIBUTIONS[name](np.random.default_rng(1)).astype(np.float32)
    seen = histogram_of(values)
    chosen = METHODS["mse"](seen, grid)
    assert rounding_error(seen, *chosen, grid) <= rounding_error(seen, seen.low, seen.high, grid)
    # On the numbers themselves too, up to what is lost by keeping a histogram of them.
    assert error_on(values, chosen, grid) <= 1.02 * error_on(values, (seen.low, seen.high), grid) + 1e-12


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-3, 3))
def test_percentile_is_the_quantile(seed: int, spread: float, shift: float) -> None:
    values = (np.random.default_rng(seed).standard_normal(20_000) * spread + shift).astype(np.float32)
    seen = histogram_of(values)
    width = (seen.high - seen.low) / 2048
    low, high = percentile_range(seen, UINT8)
    expected = np.quantile(values, [1e-4, 1 - 1e-4], method="inverted_cdf")
    assert low == pytest.approx(expected[0], abs=1.01 * width)
    assert high == pytest.approx(expected[1], abs=1.01 * width)
    assert ((values < low) | (values > high)).mean() <= 2e-4 + 1 / len(values)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
@pytest.mark.parametrize("grid", [UINT8, INT8], ids=["uint8", "int8"])
def test_one_outlier_does_not_set_the_range(method, grid: Grid) -> None:
    body = silu(np.random.default_rng(2).standard_normal(100_000)).astype(np.float32)
    values = np.append(body, np.float32(60.0))
    seen = histogram_of(values)
    low, high = METHODS[method](seen, grid)
    assert high < 60 * 0.5
    # For the body, which is what the network mostly computes with, the steps are finer.
    assert error_on(body, (low, high), grid) < 0.3 * error_on(body, (seen.low, seen.high), grid)


def test_entropy_keeps_what_is_evenly_spread() -> None:
    values = np.random.default_rng(3).uniform(-1, 1, 200_000).astype(np.float32)
    low, high = METHODS["entropy"](histogram_of(values), INT8)
    assert high > 0.97
    assert low < -0.97


def test_least_error_by_hand() -> None:
    # A thousand ones and a single 100: in steps of 100 / 127 a one is off by 0.21, clipped to 30 the 100 is by 70.
    values = np.append(np.ones(1_000_000), [100.0]).astype(np.float32)
    _, high = METHODS["mse"](histogram_of(values), INT8)
    steps = np.arange(30, 101) / 127
    off = 1 - np.round(1 / steps) * steps
    best = np.arange(30, 101)[np.argmin(1_000_000 * off**2 + (100 - np.arange(30, 101)) ** 2)]
    assert high == pytest.approx(best, abs=1.0)
