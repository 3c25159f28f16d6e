"""Predictions by hand: fits of known curves, and a split that wins from where it must."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.engines import build_plan
from parnet_deploy.tuning.crossover import Scaling, core_counts, fit_scaling, predict_split_ms, wins_from
from tests.engines import toy_bundles


@given(serial=st.floats(0, 100), parallel=st.floats(0.1, 100), cores=st.integers(2, 16))
def test_curves_of_the_model_are_fitted_exactly(serial: float, parallel: float, cores: int) -> None:
    truth = Scaling(serial, parallel)
    found = fit_scaling({count: truth.on(count) for count in range(1, cores + 1)})
    assert found.serial_ms == pytest.approx(serial, abs=1e-9 * (serial + parallel) + 1e-9)
    assert found.parallel_ms == pytest.approx(parallel, rel=1e-6)


def test_fits_never_promise_less_than_nothing() -> None:
    # More than twice as fast on two cores: all of it scales, and no part is negative.
    assert fit_scaling({1: 10.0, 2: 4.0}).serial_ms == pytest.approx(0.0)
    # Slower on two: nothing scales.
    assert fit_scaling({1: 10.0, 2: 12.0}) == Scaling(11.0, 0.0)
    assert fit_scaling({2: 10.0}).on(4) == 5.0
    with pytest.raises(ValueError, match="no times"):
        fit_scaling({})


def test_a_split_is_played_through_its_schedule(tmp_path: Path) -> None:
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", "branches", "fp32", BatchRange())
    plan = open_plan(build_plan(bundle, tmp_path / "plan", backend="null")).manifest
    scalings = {"left": Scaling(4.0, 8.0), "right": Scaling(2.0, 4.0), "join": Scaling(1.0, 2.0)}
    # One core, two lanes: each branch is slowed to half; the join runs alone.
    assert predict_split_ms(plan, scalings, 1) == pytest.approx(2 * 12 + 3)
    assert predict_split_ms(plan, scalings, 2) == pytest.approx(12 + 2)
    # Left has two of four cores.
    assert predict_split_ms(plan, scalings, 4) == pytest.approx(8 + 1.5)
    whole = Scaling(7.0, 14.0)
    points = [(cores, whole.on(cores), predict_split_ms(plan, scalings, cores)) for cores in (1, 2, 4)]
    assert wins_from(points) == 4


@pytest.mark.parametrize(
    ("splits", "expected"),
    [([9, 9, 9], 1), ([11, 11, 9], 4), ([9, 11, 9], 4), ([9, 9, 11], None), ([10, 10, 10], None)],
)
def test_a_split_wins_where_it_stays_ahead(splits: list[float], expected: int | None) -> None:
    assert wins_from([(cores, 10.0, split) for cores, split in zip((1, 2, 4), splits, strict=True)]) == expected


@pytest.mark.parametrize(
    ("at_hand", "expected"),
    [(1, (1, 2, 4, 8, 16, 32, 64)), (2, (1, 2, 4, 8, 16, 32, 64)), (6, (1, 2, 3, 4, 6, 8, 16, 32, 64))],
)
def test_numbers_of_cores(at_hand: int, expected: tuple[int, ...]) -> None:
    assert core_counts(at_hand) == expected
