"""Which points a sweep measures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.bench.sweep import SweepOptions, sweep_batches, sweep_options
from parnet_deploy.errors import InferenceError


def test_lists_are_read_in_order_each_number_once() -> None:
    assert sweep_options("4,1,2,1", " 8, 1") == SweepOptions((1, 2, 4), (1, 8))
    assert sweep_options("3", None) == SweepOptions((3,))
    assert sweep_options(None, None) is None


@pytest.mark.parametrize("text", ["", "a", "1,", "0", "1,-2", "1.5"])
def test_other_lists_are_refused(text: str) -> None:
    with pytest.raises(InferenceError, match=r"--sweep: .* is not a list of numbers from 1"):
        sweep_options(text, None)
    with pytest.raises(InferenceError, match="--sweep-batches: "):
        sweep_options("1", text)


def test_batches_without_clients_are_refused() -> None:
    with pytest.raises(InferenceError, match="but no sweep"):
        sweep_options(None, "1,2")


@pytest.mark.parametrize(
    ("batch", "asked", "measured"),
    [
        ((1, 1, 1), (), (1,)),
        ((4, 4, 4), (), (4,)),
        ((1, 4, 8), (), (1, 2, 4, 8)),
        ((1, 6, 10), (), (1, 2, 4, 6, 8)),
        ((3, 3, 13), (), (3, 6, 12)),
        ((1, 4, 8), (1, 3, 8, 16), (1, 3, 8)),
    ],
)
def test_each_plan_is_measured_at_batches_that_it_takes(
    batch: tuple[int, int, int], asked: tuple[int, ...], measured: tuple[int, ...]
) -> None:
    taken = BatchRange(min=batch[0], opt=batch[1], max=batch[2])
    assert sweep_batches(SweepOptions((1,), asked), taken, "plan") == measured


def test_a_plan_that_takes_none_is_named() -> None:
    with pytest.raises(InferenceError, match=r"plan takes batches of 1 to 1.*\n.*--dynamic-batch"):
        sweep_batches(SweepOptions((1,), (2, 4)), BatchRange(), "plan")


@given(st.integers(1, 50), st.integers(0, 200), st.integers(0, 200))
def test_doublings_stay_in_the_range(low: int, more: int, most: int) -> None:
    batch = BatchRange(min=low, opt=low + more, max=low + more + most)
    sizes = sweep_batches(SweepOptions((1,)), batch, "plan")
    assert sizes == tuple(sorted(set(sizes)))
    assert sizes[0] == low
    assert batch.opt in sizes
    assert sizes[-1] <= batch.max < 2 * max(size for size in sizes if size % low == 0)
