"""Summaries of latencies and ratios of paired rounds; pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, geometric_mean, median, stdev, variance
from typing import TypeVar

from parnet_deploy.artifacts.measurements import BenchRound, ColdStart, LatencyStatistics, Scenario, StageTiming
from parnet_deploy.artifacts.report import Finding, Interval, Metric, Ratio

Number = TypeVar("Number", int, float)

NANOSECONDS_PER_MS = 1e6

# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom; the last also serves more, a little too wide.
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

METRIC_VALUES: dict[Metric, Callable[[BenchRound], float]] = {
    "min_latency": lambda entry: entry.latency.min_ms,
    "p50_latency": lambda entry: entry.latency.p50_ms,
    "p90_latency": lambda entry: entry.latency.p90_ms,
    "throughput": lambda entry: entry.samples_per_second,
}


def headline_metric(scenario: Scenario) -> Metric:
    """Return the metric by which contenders are compared first: throughput offline, the median latency elsewhere."""
    return "throughput" if scenario == "offline" else "p50_latency"


def round_values(rounds: Sequence[BenchRound], metric: Metric) -> list[float]:
    """Return a metric's value of each round: milliseconds, or samples per second."""
    return [METRIC_VALUES[metric](entry) for entry in rounds]


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


def speed_ups(metric: Metric, values: Sequence[float], reference: Sequence[float]) -> tuple[float, ...]:
    """Return round by round how many times better than the reference: over 1 is faster, or more samples per second.

    Raises:
        ValueError: the two have different numbers of rounds.
    """
    pairs = zip(values, reference, strict=True)
    return tuple(mine / other if metric == "throughput" else other / mine for mine, other in pairs)


def paired_ratio(
    contender: str, reference: str, metric: Metric, values: Sequence[float], reference_values: Sequence[float]
) -> Ratio:
    """Compare two contenders round by round; raise `ValueError` as `speed_ups` does."""
    ratios = speed_ups(metric, values, reference_values)
    return Ratio(
        contender=contender,
        reference=reference,
        metric=metric,
        per_round=ratios,
        mean=geometric_mean(ratios),
        interval=confidence_interval(ratios),
        finding=finding_of(ratios),
    )


def confidence_interval(ratios: Sequence[float]) -> Interval | None:
    """Return the 95% interval of the geometric mean by Student's t over the logarithms; None for a single round."""
    if len(ratios) < 2:
        return None
    logs = [math.log(ratio) for ratio in ratios]
    half_width = t_quantile(len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return math.exp(fmean(logs) - half_width), math.exp(fmean(logs) + half_width)


def change_interval(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Return the 95% interval of the quotient of geometric means, after / before.

    Both runs have at least two rounds. Welch's t over the logarithms: the spreads of both add up, and neither is taken
    to be the other's. The degrees of freedom (Welch and Satterthwaite) are rounded down, which widens the interval.
    """
    logs = [[math.log(value) for value in values] for values in (before, after)]
    shares = [variance(values) / len(values) for values in logs]
    if sum(shares) == 0:
        freedom = len(before) + len(after) - 2
    else:
        parts = (share**2 / (len(values) - 1) for share, values in zip(shares, logs, strict=True))
        freedom = max(1, int(sum(shares) ** 2 / sum(parts)))
    half_width = t_quantile(freedom) * math.sqrt(sum(shares))
    change = fmean(logs[1]) - fmean(logs[0])
    return math.exp(change - half_width), math.exp(change + half_width)


def t_quantile(freedom: int) -> float:
    """Return the 97.5% quantile of Student's t, that of 10 degrees of freedom for all above."""
    return _T_QUANTILES[min(freedom, len(_T_QUANTILES)) - 1]


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


def median_stage_times(runs: Sequence[Sequence[StageTiming]]) -> tuple[StageTiming, ...]:
    """Return the median of each figure of each stage and copy over several runs of the same plan, in the first's order.

    A tensor that is copied twice on one lane is two copies: the earlier and the later one of each run.
    """
    by_span = [_numbered(stages) for stages in runs]

    def figures(key: tuple[str, str, int]) -> dict[str, float]:
        names = ("start_ms", "duration_ms", "wait_ms", "lane_busy_ms")
        return {name: median(getattr(spans[key], name) for spans in by_span) for name in names}

    return tuple(first.model_copy(update=figures(key)) for key, first in by_span[0].items())


def _numbered(stages: Sequence[StageTiming]) -> dict[tuple[str, str, int], StageTiming]:
    """Key each span by its name, its lane, and how many of the same name and lane started before it."""
    numbered = {}
    for stage in stages:
        same = [other for other in stages if (other.stage, other.lane) == (stage.stage, stage.lane)]
        earlier = sorted(same, key=lambda entry: entry.start_ms).index(stage)
        numbered[stage.stage, str(stage.lane), earlier] = stage
    return numbered


def typical_timeline(timelines: Sequence[Sequence[StageTiming]]) -> tuple[StageTiming, ...]:
    """Return the inference that took the median time; of an even number the faster one of the middle."""
    ordered = sorted(timelines, key=lambda spans: max((span.end_ms for span in spans), default=0.0))
    return tuple(ordered[(len(ordered) - 1) // 2])


def median_cold_start(cold_starts: Sequence[ColdStart]) -> ColdStart:
    """Return the median of each part."""
    names = ("process_ms", "open_ms", "first_answer_ms")
    return ColdStart(**{name: median(getattr(entry, name) for entry in cold_starts) for name in names})
