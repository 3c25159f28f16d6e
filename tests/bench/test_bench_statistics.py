"""Statistics against numbers worked out by hand, and properties that hold for any latencies."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.measurements import ColdStart, StageTiming
from parnet_deploy.artifacts.schemas import Lane
from parnet_deploy.bench.statistics import (
    change_interval,
    confidence_interval,
    finding_of,
    headline_metric,
    latency_statistics,
    median_cold_start,
    median_stage_times,
    paired_ratio,
    percentile_of_sorted,
    t_quantile,
    typical_timeline,
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


def test_a_latency_ratio_is_reference_over_contender() -> None:
    ratio = paired_ratio("new", "old", "p50_latency", [50.0, 40.0, 80.0], [100.0, 100.0, 100.0])
    assert ratio.per_round == (2.0, 2.5, 1.25)
    assert ratio.mean == pytest.approx((2.0 * 2.5 * 1.25) ** (1 / 3))


def test_a_throughput_ratio_is_contender_over_reference() -> None:
    ratio = paired_ratio("new", "old", "throughput", [50.0, 40.0], [100.0, 10.0])
    assert ratio.per_round == (0.5, 4.0)
    assert ratio.mean == pytest.approx(2.0**0.5)


def test_rounds_without_a_partner_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio("new", "old", "throughput", [1.0, 2.0], [1.0])


def test_the_confidence_interval_is_students_over_logarithms() -> None:
    # Logarithms 0 and 2: mean 1, standard deviation sqrt(2), so half the width is t(1) * sqrt(2) / sqrt(2) = 12.706.
    low, high = confidence_interval([1.0, math.exp(2.0)]) or (0.0, 0.0)
    assert math.log(low) == pytest.approx(1 - 12.706)
    assert math.log(high) == pytest.approx(1 + 12.706)


def test_the_interval_of_a_change_is_welchs_over_logarithms() -> None:
    # Logarithms 0 and 2 against 5, 5 and 8: means 1 and 6, variances of the means 2/2 and 3/3. The degrees of freedom
    # are (1 + 1)^2 / (1/1 + 1/2) = 2.67, rounded down to 2.
    before, after = [math.exp(value) for value in (0.0, 2.0)], [math.exp(value) for value in (5.0, 5.0, 8.0)]
    low, high = change_interval(before, after)
    assert (math.log(low), math.log(high)) == pytest.approx((5 - 4.303 * 2**0.5, 5 + 4.303 * 2**0.5))


def test_a_change_without_spread_is_certain() -> None:
    assert change_interval([2.0, 2.0], [3.0, 3.0, 3.0]) == pytest.approx((1.5, 1.5))


def test_quantiles_are_students() -> None:
    from scipy.stats import t

    assert [t_quantile(freedom) for freedom in range(1, 11)] == pytest.approx(t.ppf(0.975, range(1, 11)), abs=6e-4)
    assert t_quantile(200) == t_quantile(10) > t.ppf(0.975, 200)


@pytest.mark.parametrize(
    ("scenario", "metric"),
    [
        ("single-stream", "p50_latency"),
        ("multi-stream", "p50_latency"),
        ("server", "p50_latency"),
        ("offline", "throughput"),
    ],
)
def test_headline_metrics(scenario: str, metric: str) -> None:
    assert headline_metric(scenario) == metric  # type: ignore[arg-type]


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
def test_swapping_contender_and_reference_swaps_the_finding(ratios: list[float]) -> None:
    swapped = {"faster": "slower", "slower": "faster"}
    ones = [1.0] * len(ratios)
    forward = paired_ratio("a", "b", "p50_latency", ones, ratios)
    backward = paired_ratio("b", "a", "p50_latency", ratios, ones)
    assert backward.mean == pytest.approx(1 / forward.mean)
    if forward.interval is not None and all(abs(math.log(bound)) > 1e-9 for bound in forward.interval):
        assert backward.finding == swapped.get(forward.finding, forward.finding)
    if min(ratios) <= 1 <= max(ratios) and len(ratios) > 1:
        assert forward.finding == "within the noise"


def test_equal_plans_are_seldom_called_different() -> None:
    generator = random.Random(0)
    trials = 4000
    called = sum(
        finding_of([generator.lognormvariate(0, 0.05) for _ in range(3)]) != "within the noise" for _ in range(trials)
    )
    # 5% is what a 95% interval allows; the standard error of 4000 trials is 0.3%.
    assert 0.03 < called / trials < 0.065


def timing(stage: str, start_ms: float, duration_ms: float, wait_ms: float = 0.0, stream: int = 0) -> StageTiming:
    return StageTiming(
        stage=stage,
        lane=Lane(device="cpu", stream=stream),
        start_ms=start_ms,
        duration_ms=duration_ms,
        wait_ms=wait_ms,
        lane_busy_ms=wait_ms / 4,
    )


def test_stage_times_are_medians_over_runs() -> None:
    runs = [
        [timing("stream1", 0.0, 5.0, 4.0), timing("join", 5.0, 1.0)],
        [timing("join", 9.0, 3.0), timing("stream1", 1.0, 8.0, 12.0)],
        [timing("stream1", 2.0, 6.0, 8.0), timing("join", 8.0, 2.0)],
    ]
    assert median_stage_times(runs) == (timing("stream1", 1.0, 6.0, 8.0), timing("join", 8.0, 2.0))


def test_two_copies_of_a_tensor_on_one_lane_are_told_apart() -> None:
    name = "stream1 to cpu"
    runs = [
        [timing(name, 9.0, 1.0), timing(name, 1.0, 2.0), timing(name, 3.0, 7.0, stream=1)],
        [timing(name, 1.5, 2.0), timing(name, 9.5, 1.0), timing(name, 4.0, 7.0, stream=1)],
    ]
    assert median_stage_times(runs) == (
        timing(name, 9.25, 1.0),
        timing(name, 1.25, 2.0),
        timing(name, 3.5, 7.0, stream=1),
    )


def test_the_typical_timeline_is_one_that_was_measured() -> None:
    fast, middle, slow = ([timing("a", 0.0, end), timing("b", end, 1.0)] for end in (4.0, 5.0, 9.0))
    assert typical_timeline([slow, fast, middle]) == tuple(middle)
    assert typical_timeline([slow, fast]) == tuple(fast)
    assert typical_timeline([[]]) == ()


def test_cold_starts_are_medians_of_their_parts() -> None:
    starts = [ColdStart(process_ms=a, open_ms=b, first_answer_ms=c) for a, b, c in ((1, 20, 6), (3, 10, 4), (2, 30, 5))]
    assert median_cold_start(starts) == ColdStart(process_ms=2, open_ms=20, first_answer_ms=5)
