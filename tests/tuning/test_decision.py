"""Decisions by hand: splits have to prove themselves, budgets are kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from parnet_deploy.artifacts.tuning import TuningLimits
from parnet_deploy.errors import CheckFailedError, InferenceError
from parnet_deploy.tuning.candidates import Candidate
from parnet_deploy.tuning.decision import decide, over_budget, race_score
from parnet_deploy.tuning.halving import Trial

MakeTrial = Callable[..., Trial]
LATENCY = TuningLimits(budget_s=1.0)


@pytest.mark.parametrize(
    ("split_ms", "is_chosen"),
    [
        ([80, 82, 81, 80, 79], True),
        # Faster in the median, but not in every round.
        ([80, 82, 101, 80, 79], False),
        # Every round, but three of them say too little: the interval reaches over 1.
        ([99, 60, 99], False),
        ([101, 102, 103], False),
        ([50], False),
    ],
)
def test_a_split_is_chosen_only_beyond_the_noise(make_trial: MakeTrial, split_ms: list[float], is_chosen: bool) -> None:
    single = make_trial("single", [100.0] * len(split_ms))
    split = make_trial("split", split_ms, split=True)
    decision = decide([single, split, make_trial("slow", [200.0] * len(split_ms))], LATENCY)
    assert decision.chosen is (split if is_chosen else single)
    assert decision.best_single is single
    expected = "beats the best single choice" if is_chosen else "single"
    assert expected in decision.reason
    assert ("by one round only" in decision.reason) == (len(split_ms) == 1)


def test_the_second_split_may_prove_itself_where_the_first_is_noisy(make_trial: MakeTrial) -> None:
    single = make_trial("single", [100.0] * 5)
    noisy = make_trial("noisy", [50, 150, 40, 45, 50], split=True)
    steady = make_trial("steady", [90, 91, 90, 89, 90], split=True)
    assert decide([single, noisy, steady], LATENCY).chosen is steady


def test_those_that_dropped_or_failed_are_not_chosen(
    make_trial: MakeTrial, make_candidate: Callable[..., Candidate]
) -> None:
    kept, dropped = make_trial("kept", [9.0] * 5), make_trial("dropped", [1.0])
    dropped.dropped_after = 1
    failed = Trial(make_candidate("failed"), failure="no memory")
    assert decide([dropped, kept, failed], LATENCY).chosen is kept
    with pytest.raises(InferenceError, match="no candidate could be measured") as caught:
        decide([failed], LATENCY)
    assert caught.value.remedy == "no memory"


def test_a_latency_budget_is_kept_or_refused(make_trial: MakeTrial) -> None:
    limits = TuningLimits(budget_s=1.0, max_latency_ms=50.0)
    fast, slow = make_trial("fast", [40.0] * 5), make_trial("slow", [60.0] * 5)
    assert decide([fast, slow], limits).chosen is fast
    assert over_budget(slow, limits) == "60 ms are over the budget of 50 ms"
    assert over_budget(fast, limits) is None
    expected = (
        "no candidate keeps the budget; of the nearest, slow, null, 2 threads, 60 ms are over the budget of 50 ms"
    )
    with pytest.raises(CheckFailedError, match=expected):
        decide([make_trial("slower", [70.0] * 5), slow], limits)


def test_a_budget_of_memory_is_kept_or_refused(make_trial: MakeTrial) -> None:
    """The largest turn counts. Where nobody keeps it, the smallest is named, and then whoever is the fastest."""
    limits = TuningLimits(budget_s=1.0, max_memory_mib=300, max_latency_ms=50)
    small, large, larger = (
        make_trial("small", [40.0] * 3, peaks_mib=(200, 300, 299)),
        make_trial("large", [20.0] * 3, peaks_mib=(280, 301, 280)),
        make_trial("larger", [10.0] * 3, peaks_mib=(400, 400, 400)),
    )
    assert [race_score(trial, limits) for trial in (small, large, larger)] == [40.0, float("inf"), float("inf")]
    assert decide([large, larger, small], limits).chosen is small
    assert decide([large, larger, small], LATENCY).chosen is larger
    assert over_budget(large, limits) == "301 MiB are over the budget of 300 MiB"
    with pytest.raises(CheckFailedError, match="of the nearest, large, null, 2 threads, 301 MiB are over"):
        decide([larger, large], limits)
    slow = make_trial("slow", [60.0] * 3, peaks_mib=(100, 100, 100))
    with pytest.raises(CheckFailedError, match="of the nearest, slow, null, 2 threads, 60 ms are over"):
        decide([larger, slow, large], limits)


def test_throughput_counts_images_and_keeps_the_latency(make_trial: MakeTrial) -> None:
    one, eight = make_trial("one", [10.0] * 5), make_trial("eight", [40.0] * 5, batch=8)
    thirty_two = make_trial("thirty-two", [100.0] * 5, batch=32)
    trials = [one, eight, thirty_two]
    assert decide(trials, TuningLimits(budget_s=1, objective="throughput")).chosen is thirty_two
    limits = TuningLimits(budget_s=1, objective="throughput", max_latency_ms=50)
    assert decide(trials, limits).chosen is eight
    assert decide(trials, LATENCY).chosen is one
    # What is clearly over the budget does not take part in the race; what is nearly within it does.
    assert [race_score(trial, limits) for trial in trials] == [10.0, 5.0, float("inf")]
    assert race_score(make_trial("near", [52.0] * 5, batch=32), limits) < 5


def test_splits_alone_are_ranked_among_themselves(make_trial: MakeTrial) -> None:
    decision = decide([make_trial("a", [2.0], split=True), make_trial("b", [1.0], split=True)], LATENCY)
    assert (decision.chosen.candidate.bundle.label, decision.best_single) == ("b", None)
