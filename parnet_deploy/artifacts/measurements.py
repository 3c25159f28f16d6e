"""Schemas of what is measured: settings, latencies, stages, cold starts, rounds and the points of a sweep.

Latencies are LoadGen's: from the moment a query was issued (server: scheduled; offline: the one query of the run was
issued) to its answer. Raw latencies are integers in nanoseconds; everything derived from them is in milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.schemas import Frozen, Lane, Positive

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
Verdict = Literal["VALID", "INVALID"]
Count = Annotated[int, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ScenarioSettings(Frozen):
    """What LoadGen is asked for in every round, by the names of its own settings, and what is done around it.

    `target_qps` and `target_latency_ms` belong to the server scenario alone: the arrival rate of the queries, and the
    latency that `target_percentile` of them must keep.
    """

    scenario: Scenario
    min_duration_ms: Positive
    min_query_count: Annotated[int, Field(ge=2)]
    samples_per_query: Positive = 1
    target_percentile: Annotated[float, Field(gt=0, lt=1)]
    target_qps: PositiveNumber | None = None
    target_latency_ms: PositiveNumber | None = None
    concurrency: Positive = 1
    warm_up_runs: Positive = 3
    profile_runs: Positive = 10
    cuda: CudaOptions = CudaOptions()
    seed: Count = 0


class LatencyStatistics(Frozen):
    """Summary of a set of latencies; percentiles by LoadGen's rule."""

    count: Positive
    min_ms: Milliseconds
    mean_ms: Milliseconds
    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p99_ms: Milliseconds
    max_ms: Milliseconds


class StageTiming(Frozen):
    """When a stage, or the copy of a tensor (`TENSOR to DEVICE`), ran on its lane.

    `start_ms` counts from the start of the inference. `wait_ms` is the time from the moment its inputs were there to
    its start; for `lane_busy_ms` of it the lane was running something else, the rest is the way from lane to lane.
    """

    stage: Annotated[str, Field(min_length=1)]
    lane: Lane
    is_copy: bool = False
    start_ms: Milliseconds
    duration_ms: Milliseconds
    wait_ms: Milliseconds
    lane_busy_ms: Milliseconds

    @property
    def end_ms(self) -> float:
        """When it ended, counted from the start of the inference."""
        return self.start_ms + self.duration_ms


class ColdStart(Frozen):
    """From launching a process to its first answer: interpreter and imports, opening the plan, the first inference."""

    process_ms: Milliseconds
    open_ms: Milliseconds
    first_answer_ms: Milliseconds

    @property
    def total_ms(self) -> float:
        """Launch to first answer."""
        return self.process_ms + self.open_ms + self.first_answer_ms


class BenchRound(Frozen):
    """One run of one contender, alone in a process of its own.

    `latencies_ns` holds one latency per query in the order of issue; in the offline scenario, whose samples are all of
    one query, one per sample. `verdict` is LoadGen's, `reasons` say what an invalid run lacked. `stages` are medians
    over several profiled inferences, `timeline` is the one of them that took the median time.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    query_count: Positive
    sample_count: Positive
    latencies_ns: Annotated[tuple[Count, ...], Field(min_length=1)]
    latency: LatencyStatistics
    samples_per_second: PositiveNumber
    cold_start: ColdStart
    peak_memory_bytes: Positive
    stages: tuple[StageTiming, ...]
    timeline: tuple[StageTiming, ...]


class SweepPoint(Frozen):
    """One run in a closed loop, alone in a process of its own.

    `concurrency` clients each send a batch of `batch` samples, and the next as soon as it is answered. `latency` is
    that of a batch, as its client sees it.
    """

    concurrency: Positive
    batch: Positive
    latency: LatencyStatistics
    samples_per_second: PositiveNumber
    peak_memory_bytes: Positive
