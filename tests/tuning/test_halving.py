"""Halving with invented timings: nobody good is lost to noise, and time goes to the good ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.tuning import TuningLimits
from parnet_deploy.errors import EngineError
from parnet_deploy.planning.arrangement import Arrangement
from parnet_deploy.tuning.candidates import BundleTraits, Candidate
from parnet_deploy.tuning.decision import decide
from parnet_deploy.tuning.halving import FINAL_ROUNDS, FINALISTS, Measurement, successive_halving

LIMITS = TuningLimits(budget_s=1000.0)


class Clock:
    """Time that passes only while something is measured."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def candidate(index: int, *, split: bool) -> Candidate:
    bundle = BundleTraits(f"b{index}", "fp32", 1, stages=4 if split else 1, width=3 if split else 1)
    return Candidate(bundle, "null", Arrangement(2, "side by side" if split else "in turn"))


@st.composite
def fields(draw: st.DrawFn) -> list[tuple[Candidate, float]]:
    """Candidates with their true times, at least one of which is no split."""
    count = draw(st.integers(1, 20))
    splits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    splits[draw(st.integers(0, count - 1))] = False
    # Close together as often as far apart.
    times = draw(st.lists(st.one_of(st.floats(1, 1.1), st.floats(1, 100)), min_size=count, max_size=count))
    return [(candidate(index, split=split), ms) for index, (split, ms) in enumerate(zip(splits, times, strict=True))]


@given(field=fields(), noise=st.floats(0, 0.0045), budget_s=st.floats(0.1, 1000), data=st.data())
def test_the_choice_is_never_two_percent_slower_than_the_best_single_one(
    field: list[tuple[Candidate, float]], noise: float, budget_s: float, data: st.DataObject
) -> None:
    """Whatever the order of times and the budget; noise moves the median of a turn by up to 0.45%."""
    truth = {entry.label: ms for entry, ms in field}
    clock = Clock()

    def measure(entry: Candidate, seconds: float) -> Measurement:
        clock.now += seconds + 1.5
        return Measurement(truth[entry.label] * (1 + data.draw(st.floats(-noise, noise))))

    trials = successive_halving([entry for entry, _ in field], measure, budget_s=budget_s, clock=clock)
    decision = decide(trials, LIMITS)
    best_single = min(ms for entry, ms in field if not entry.is_split)
    assert truth[decision.chosen.candidate.label] <= 1.02 * best_single
    # Within the noise that the margin covers, the best single one is never lost on the way.
    assert decision.best_single is not None
    assert truth[decision.best_single.candidate.label] <= best_single * (1 + noise) / (1 - noise) + 1e-9


@pytest.mark.parametrize("count", [1, 3, 4, 5, 14, 33])
def test_time_goes_to_the_good_ones_and_the_budget_is_kept(count: int) -> None:
    field = [candidate(index, split=index % 3 == 2) for index in range(count)]
    clock, spent, turns = Clock(), Counter[str](), Counter[str]()

    def measure(entry: Candidate, seconds: float) -> Measurement:
        clock.now += seconds + 1.0
        spent[entry.label] += seconds
        turns[entry.label] += 1
        return Measurement(10.0 * 1.2 ** int(entry.bundle.label[1:]))

    budget_s = 20.0 * count
    trials = successive_halving(field, measure, budget_s=budget_s, clock=clock)
    running = [trial for trial in trials if trial.is_running]
    assert {trial.candidate.label for trial in running} >= {entry.label for entry in field[: min(count, FINALISTS)]}
    assert len(running) <= FINALISTS
    assert all(len(trial.measurements) == FINAL_ROUNDS for trial in running)
    assert clock.now <= budget_s + 1e-6
    if count > 2 * FINALISTS:
        assert spent[field[0].label] > 5 * spent[field[-1].label]
        assert turns[field[-1].label] == 1


def test_everybody_gets_a_turn_however_small_the_budget() -> None:
    field = [candidate(index, split=False) for index in range(9)]
    clock = Clock()

    def measure(entry: Candidate, seconds: float) -> Measurement:
        clock.now += seconds + 2.0
        return Measurement(1.0 + int(entry.bundle.label[1:]))

    trials = successive_halving(field, measure, budget_s=1.0, clock=clock)
    assert all(len(trial.measurements) == 1 for trial in trials)
    assert decide(trials, LIMITS).chosen is trials[0]


def test_failures_are_kept_as_reasons_and_hold_nobody_up() -> None:
    field = [candidate(index, split=False) for index in range(6)]
    clock = Clock()

    def measure(entry: Candidate, seconds: float) -> Measurement:
        clock.now += seconds
        if entry in field[:2]:
            raise EngineError("no such operator")
        return Measurement(1.0)

    trials = successive_halving(field, measure, budget_s=60, clock=clock)
    assert [trial.failure for trial in trials] == ["no such operator"] * 2 + [None] * 4
    assert trials[0].latency_ms == math.inf
    assert decide(trials, LIMITS).chosen.candidate in field[2:]


def test_the_best_single_choice_stays_among_faster_splits() -> None:
    field = [candidate(index, split=index != 19) for index in range(20)]
    clock = Clock()

    def measure(entry: Candidate, seconds: float) -> Measurement:
        clock.now += seconds
        return Measurement(1.0 + int(entry.bundle.label[1:]))

    trials = successive_halving(field, measure, budget_s=100, clock=clock)
    assert trials[19].is_running
    decision = decide(trials, LIMITS)
    assert decision.best_single is trials[19]
    assert decision.chosen is trials[0]


def test_progress_tells_rung_round_and_time_left(make_candidate: Callable[..., Candidate]) -> None:
    seen: list[tuple[str, int, int]] = []
    clock = Clock()

    def measure(_: Candidate, seconds: float) -> Measurement:
        clock.now += seconds
        return Measurement(1.0)

    successive_halving(
        [make_candidate("a"), make_candidate("b")],
        measure,
        budget_s=50,
        clock=clock,
        on_progress=lambda entry, rung, turn, left_s: (
            seen.append((entry.bundle.label, rung, turn)) if left_s >= 0 else None
        ),
    )
    assert seen[:4] == [("a", 1, 1), ("b", 1, 1), ("a", 2, 1), ("b", 2, 1)]
    assert seen[-1] == ("b", 2, FINAL_ROUNDS)
