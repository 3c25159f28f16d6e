"""Statistics against numbers worked out by hand, and properties that hold for any latencies."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.report import StageTiming
from parnet_deploy.artifacts.schemas import Lane
from parnet_deploy.bench.statistics import (
    confidence_interval,
    finding_of,
    latency_statistics,
    median_stage_times,
    paired_ratio,
    percentile_of_sorted,
)

LATENCIES = st.lists(st.integers(1, 10**12), min_size=1, max_size=300)
RATIOS = st.lists(st.floats(0.01, 100), min_size=1, max_size=15)


@pytest.mark.parametrize(
    ("count", "p50", "p90", "p99"),
    [(1, 1, 1, 1), (2, 2, 2, 2), (10, 6, 10, 10), (20, 11, 19, 20), (100, 51, 91, 100), (1000, 501, 901, 991)],
)
def test_percentiles_take_the_rank_that_loadgen_takes(count: int, p50: int, p90: int, p99: int) -> None:
    values = range(1, count + 1)
    assert [percentile_of_sorted(values, fraction) for fraction in (0.5, 0.9, 0.99)] == [p50, p90, p99]


def test_latency_statistics_of_ten_latencies() -> None:
    milliseconds = [5, 1, 9, 3, 7, 2, 10, 4, 8, 6]
    summary = latency_statistics([value * 10**6 for value in milliseconds])
    assert summary.model_dump() == {
        "count": 10,
        "min_ms": 1.0,
        "mean_ms": 5.5,
        "p50_ms": 6.0,
        "p90_ms": 10.0,
        "p99_ms": 10.0,
        "max_ms": 10.0,
    }


@given(LATENCIES, st.randoms(use_true_random=False))
def test_latency_statistics_ignore_order_and_are_ordered(latencies: list[int], shuffler: random.Random) -> None:
    summary = latency_statistics(latencies)
    shuffled = list(latencies)
    shuffler.shuffle(shuffled)
    assert latency_statistics(shuffled) == summary
    ascending = [summary.min_ms, summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.max_ms]
    assert ascending == sorted(ascending)
    assert summary.min_ms <= summary.mean_ms * (1 + 1e-12)
    assert summary.mean_ms <= summary.max_ms * (1 + 1e-12)


@given(LATENCIES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_is_a_latency_with_its_share_of_the_others_below(latencies: list[int], fraction: float) -> None:
    value = percentile_of_sorted(sorted(latencies), fraction)
    assert value in latencies
    assert sum(latency < value for latency in latencies) <= fraction * len(latencies)
    assert sum(latency <= value for latency in latencies) > fraction * len(latencies) - 1e-9


def test_a_latency_ratio_is_baseline_over_contender() -> None:
    ratio = paired_ratio("new", "old", "p50_latency", [50.0, 40.0, 80.0], [100.0, 100.0, 100.0])
    assert ratio.per_round == (2.0, 2.5, 1.25)
    assert (ratio.min, ratio.median, ratio.max) == (1.25, 2.0, 2.5)


def test_a_throughput_ratio_is_contender_over_baseline() -> None:
    ratio = paired_ratio("new", "old", "throughput", [50.0, 40.0], [100.0, 10.0])
    assert ratio.per_round == (0.5, 4.0)
    assert ratio.median == 2.25


def test_rounds_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio("new", "old", "throughput", [1.0, 2.0], [1.0])


def test_the_confidence_interval_is_students_over_logarithms() -> None:
    # Logarithms 0 and 2: mean 1, standard deviation sqrt(2), so half the width is t(1) * sqrt(2) / sqrt(2) = 12.706.
    low, high = confidence_interval([1.0, math.exp(2.0)]) or (0.0, 0.0)
    assert math.log(low) == pytest.approx(1 - 12.706)
    assert math.log(high) == pytest.approx(1 + 12.706)


@pytest.mark.parametrize(
    ("ratios", "finding"),
    [
        ([1.5], "one round"),
        ([1.10, 1.11, 1.12], "faster"),
        ([0.90, 0.91, 0.92], "slower"),
        ([0.99, 1.20, 1.21], "within the noise"),
        # All above 1, but so far apart that chance explains it.
        ([1.01, 1.30, 1.10], "within the noise"),
        ([1.0, 1.0, 1.0], "within the noise"),
    ],
)
def test_findings(ratios: list[float], finding: str) -> None:
    assert finding_of(ratios) == finding


@given(RATIOS)
def test_swapping_contender_and_baseline_swaps_the_finding(ratios: list[float]) -> None:
    swapped = {"faster": "slower", "slower": "faster"}
    ones = [1.0] * len(ratios)
    forward = paired_ratio("a", "b", "p50_latency", ones, ratios)
    backward = paired_ratio("b", "a", "p50_latency", ratios, ones)
    assert backward.min == pytest.approx(1 / forward.max)
    if forward.interval is not None and all(abs(math.log(bound)) > 1e-9 for bound in forward.interval):
        assert backward.finding == swapped.get(forward.finding, forward.finding)
    if forward.min <= 1 <= forward.max and len(ratios) > 1:
        assert forward.finding == "within the noise"


def test_equal_plans_are_seldom_called_different() -> None:
    generator = random.Random(0)
    trials = 4000
    called = sum(
        finding_of([generator.lognormvariate(0, 0.05) for _ in range(3)]) != "within the noise" for _ in range(trials)
    )
    # 5% is what a 95% interval allows; the standard error of 4000 trials is 0.3%.
    assert 0.03 < called / trials < 0.065


def test_stage_times_are_medians_over_runs() -> None:
    def timing(stage: str, start_ms: float, duration_ms: float) -> StageTiming:
        return StageTiming(stage=stage, lane=Lane(device="cpu"), start_ms=start_ms, duration_ms=duration_ms)

    runs = [
        [timing("stream1", 0.0, 5.0), timing("join", 5.0, 1.0)],
        [timing("join", 9.0, 3.0), timing("stream1", 1.0, 8.0)],
        [timing("stream1", 2.0, 6.0), timing("join", 8.0, 2.0)],
    ]
    assert median_stage_times(runs) == (timing("stream1", 1.0, 6.0), timing("join", 8.0, 2.0))
