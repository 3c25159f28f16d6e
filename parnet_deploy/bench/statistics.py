"""Summaries of latencies and ratios of paired rounds; pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import TypeVar

from parnet_deploy.artifacts.report import Finding, LatencyStatistics, Metric, Ratio, StageTiming

Number = TypeVar("Number", int, float)

NANOSECONDS_PER_MS = 1e6

# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom; the last also serves more, a little too wide.
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def percentile_of_sorted(values: Sequence[Number], fraction: float) -> Number:
    """Return the element at rank `floor(n * fraction)`, counted from 0, of values in ascending order.

    This is LoadGen's rule (results.cc, ProcessLatencies): no interpolation, always a latency that was measured.
    `fraction` is from 0 up to, not including, 1.
    """
    return values[int(len(values) * fraction)]


def latency_statistics(latencies_ns: Sequence[int]) -> LatencyStatistics:
    """Summarise latencies in nanoseconds, in any order, at least one."""
    ordered = sorted(latencies_ns)

    def percentile_ms(fraction: float) -> float:
        return percentile_of_sorted(ordered, fraction) / NANOSECONDS_PER_MS

    return LatencyStatistics(
        count=len(ordered),
        min_ms=ordered[0] / NANOSECONDS_PER_MS,
        mean_ms=fmean(ordered) / NANOSECONDS_PER_MS,
        p50_ms=percentile_ms(0.5),
        p90_ms=percentile_ms(0.9),
        p99_ms=percentile_ms(0.99),
        max_ms=ordered[-1] / NANOSECONDS_PER_MS,
    )


def paired_ratio(
    contender: str, baseline: str, metric: Metric, contender_values: Sequence[float], baseline_values: Sequence[float]
) -> Ratio:
    """Compare two contenders round by round; over 1 means that the contender is better.

    A latency counts as baseline / contender, a throughput as contender / baseline. The spread is that of the rounds.

    Raises:
        ValueError: the two have different numbers of rounds.
    """
    pairs = list(zip(contender_values, baseline_values, strict=True))
    ratios = tuple(mine / other if metric == "throughput" else other / mine for mine, other in pairs)
    return Ratio(
        contender=contender,
        baseline=baseline,
        metric=metric,
        per_round=ratios,
        min=min(ratios),
        median=median(ratios),
        max=max(ratios),
        interval=confidence_interval(ratios),
        finding=finding_of(ratios),
    )


def confidence_interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95% interval of the geometric mean by Student's t over the logarithms; None for a single round."""
    if len(ratios) < 2:
        return None
    logs = [math.log(ratio) for ratio in ratios]
    quantile = _T_QUANTILES[min(len(logs) - 1, len(_T_QUANTILES)) - 1]
    half_width = quantile * stdev(logs) / math.sqrt(len(logs))
    return math.exp(fmean(logs) - half_width), math.exp(fmean(logs) + half_width)


def finding_of(ratios: Sequence[float]) -> Finding:
    """Tell what the rounds' ratios allow to say.

    A difference counts when every round shows it and the confidence interval leaves out 1. The rounds alone would not
    do: three rounds of the same plan against itself fall on one side of 1 a quarter of the time.
    """
    interval = confidence_interval(ratios)
    if interval is None:
        return "one round"
    if min(*ratios, interval[0]) > 1:
        return "faster"
    return "slower" if max(*ratios, interval[1]) < 1 else "within the noise"


def median_stage_times(rounds: Sequence[Sequence[StageTiming]]) -> tuple[StageTiming, ...]:
    """Return each stage's median start and duration over several runs of the same stages, in the first run's order."""
    by_stage = [{entry.stage: entry for entry in stages} for stages in rounds]
    return tuple(
        StageTiming(
            stage=first.stage,
            lane=first.lane,
            start_ms=median(stages[first.stage].start_ms for stages in by_stage),
            duration_ms=median(stages[first.stage].duration_ms for stages in by_stage),
        )
        for first in rounds[0]
    )
