"""Schema of the benchmark report, the fourth artefact: what was measured, under which settings, on which machine.

Latencies are LoadGen's: from the moment a query was issued (server: scheduled; offline: the one query of the run was
issued) to its answer. Raw latencies are integers in nanoseconds; everything derived from them is in milliseconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.files import read_manifest
from parnet_deploy.artifacts.schemas import (
    BatchRange,
    DeviceRecord,
    Frozen,
    Lane,
    Positive,
    Precision,
    Sha256,
    StageName,
)

REPORT_SCHEMA_VERSION: Final = 1

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
Metric = Literal["p50_latency", "p90_latency", "throughput"]
Finding = Literal["faster", "slower", "within the noise", "one round"]
Count = Annotated[int, Field(ge=0)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ScenarioSettings(Frozen):
    """What LoadGen is asked for in every round; the names are those of its own settings.

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
    """Median start, counted from the start of the inference, and median duration of one stage on its lane."""

    stage: StageName
    lane: Lane
    start_ms: Milliseconds
    duration_ms: Milliseconds


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
    one query, one per sample. `verdict` is LoadGen's, `reasons` say what an invalid run lacked.
    """

    verdict: Literal["VALID", "INVALID"]
    reasons: tuple[str, ...] = ()
    query_count: Positive
    sample_count: Positive
    latencies_ns: Annotated[tuple[Count, ...], Field(min_length=1)]
    latency: LatencyStatistics
    samples_per_second: PositiveNumber
    cold_start: ColdStart
    peak_memory_bytes: Positive
    stages: tuple[StageTiming, ...]


class Contender(Frozen):
    """A plan and its rounds; `latency` is over the latencies of all rounds, the other figures are medians of rounds.

    `bytes_across` go from device to device for each sample, `bytes_host` between the host and devices.
    """

    label: str
    plan_name: str
    plan_sha256: Sha256
    backend: str
    backend_version: str
    devices: tuple[DeviceRecord, ...]
    form: Literal["training", "fused"]
    partition: str
    precision: Precision
    batch: BatchRange
    input_shape: tuple[Positive, ...]
    latency: LatencyStatistics
    samples_per_second: PositiveNumber
    cold_start_ms: Milliseconds
    peak_memory_bytes: Positive
    bytes_across: Count = 0
    bytes_host: Count = 0
    stages: tuple[StageTiming, ...]
    rounds: Annotated[tuple[BenchRound, ...], Field(min_length=1)]

    @property
    def is_valid(self) -> bool:
        """Whether LoadGen called every round valid."""
        return all(entry.verdict == "VALID" for entry in self.rounds)


class Ratio(Frozen):
    """How many times better than the baseline, round by round: over 1 is faster (or more samples per second).

    A round of the contender is paired with the baseline's round of the same turn, so that slow changes of the machine
    cancel out. `interval` is the 95% confidence interval of the geometric mean, from two rounds on.
    """

    contender: str
    baseline: str
    metric: Metric
    per_round: Annotated[tuple[PositiveNumber, ...], Field(min_length=1)]
    min: PositiveNumber
    median: PositiveNumber
    max: PositiveNumber
    interval: tuple[PositiveNumber, PositiveNumber] | None
    finding: Finding


class Machine(Frozen):
    """The hardware and software that the figures belong to; nothing that identifies a host or a user."""

    cpu: str
    logical_cores: Positive
    usable_cores: Positive
    memory_bytes: Count
    system: str
    python: str
    packages: dict[str, str]


class Report(Frozen):
    """`report.json`: several plans measured in turn under one scenario; the first is the baseline of the ratios."""

    schema_version: Literal[1] = REPORT_SCHEMA_VERSION
    kind: Literal["report"] = "report"
    tool_version: str
    created: str
    settings: ScenarioSettings
    machine: Machine
    contenders: Annotated[tuple[Contender, ...], Field(min_length=1)]
    ratios: tuple[Ratio, ...]

    @model_validator(mode="after")
    def _contenders_fit(self) -> Self:
        labels = [contender.label for contender in self.contenders]
        if len(set(labels)) != len(labels):
            raise ValueError("contenders must have different labels")
        if len({len(contender.rounds) for contender in self.contenders}) != 1:
            raise ValueError("every contender must have the same number of rounds")
        for ratio in self.ratios:
            if ratio.contender not in labels or ratio.baseline != labels[0]:
                raise ValueError("ratios must compare a contender with the first one")
        return self

    @property
    def baseline(self) -> Contender:
        """The contender that the ratios compare with."""
        return self.contenders[0]

    def ratio_of(self, label: str, metric: Metric) -> Ratio | None:
        """Return a contender's ratio to the baseline; None for the baseline itself."""
        return next((ratio for ratio in self.ratios if (ratio.contender, ratio.metric) == (label, metric)), None)


def read_report(folder: Path) -> Report:
    """Read the report in `folder`; raise `ArtifactError` if it is missing, damaged or of another schema version."""
    report, _ = read_manifest(folder / "report.json", Report, kind="report", schema_version=REPORT_SCHEMA_VERSION)
    return report
