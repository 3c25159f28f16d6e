"""Schema of the benchmark report, the fourth artefact: what was measured, under which settings, on which machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from parnet_deploy.artifacts.files import read_manifest
from parnet_deploy.artifacts.measurements import (
    BenchRound,
    ColdStart,
    Count,
    LatencyStatistics,
    PositiveNumber,
    ScenarioSettings,
    StageTiming,
    SweepPoint,
)
from parnet_deploy.artifacts.schemas import BatchRange, DeviceRecord, Frozen, Positive, Precision, Sha256

REPORT_SCHEMA_VERSION: Final = 2

Metric = Literal["min_latency", "p50_latency", "p90_latency", "throughput"]
Finding = Literal["faster", "slower", "within the noise", "one round"]
ChangeFinding = Literal["faster", "slower", "within the tolerance", "within the noise"]
ComparedBy = Literal["absolute", "relative"]
Interval = tuple[PositiveNumber, PositiveNumber]


class MeasuredPlan(Frozen):
    """What a contender is, as its plan says.

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
    bytes_across: Count = 0
    bytes_host: Count = 0

    @property
    def is_on_gpu(self) -> bool:
        """Whether it runs on GPUs."""
        return any(device.device != "cpu" for device in self.devices)


class Contender(MeasuredPlan):
    """A plan and its rounds; `latency` is over the latencies of all rounds, the other figures are medians of rounds.

    `harness` holds the latencies of single queries to the same plan with engines that do nothing: what LoadGen, session
    and threads take of every latency. It is not measured for plans on GPUs. `timeline` is that of the round whose
    inference took the median time.
    """

    latency: LatencyStatistics
    samples_per_second: PositiveNumber
    cold_start: ColdStart
    peak_memory_bytes: Positive
    harness: LatencyStatistics | None = None
    stages: tuple[StageTiming, ...]
    timeline: tuple[StageTiming, ...]
    rounds: Annotated[tuple[BenchRound, ...], Field(min_length=1)]
    sweep: tuple[SweepPoint, ...] = ()

    @property
    def is_valid(self) -> bool:
        """Whether LoadGen called every round valid."""
        return all(entry.verdict == "VALID" for entry in self.rounds)


class Ratio(Frozen):
    """How many times better than the reference, round by round: over 1 is faster (or more samples per second).

    A round of the contender is paired with the reference's round of the same turn, so that slow changes of the machine
    cancel out. `mean` is geometric, and `interval` its 95% confidence interval, from two rounds on.
    """

    contender: str
    reference: str
    metric: Metric
    per_round: Annotated[tuple[PositiveNumber, ...], Field(min_length=1)]
    mean: PositiveNumber
    interval: Interval | None
    finding: Finding


class Machine(Frozen):
    """The hardware and software that the figures belong to; nothing that identifies a host or a user.

    `capability` is the processor's architecture and widest vector extension, because clouds give processors of several
    generations one name; null in what was measured before it was recorded. `load_before` is the number of threads that
    wanted to run, averaged over the minute before the first run; null where the system does not tell.
    """

    cpu: str
    capability: str | None = None
    logical_cores: Positive
    usable_cores: Positive
    memory_bytes: Count
    load_before: Annotated[float, Field(ge=0)] | None = None
    system: str
    python: str
    packages: dict[str, str]

    @property
    def processor(self) -> str:
        """The processor's name with its capability, as far as that is known."""
        return self.cpu if self.capability is None else f"{self.cpu} ({self.capability})"


class Change(Frozen):
    """A contender's figure against that of the earlier report: milliseconds, samples per second, or a speed-up.

    `slowdown` is over 1 where the contender became slower; `interval` is its 95% confidence interval.
    """

    contender: str
    before: PositiveNumber
    after: PositiveNumber
    slowdown: PositiveNumber
    interval: Interval
    finding: ChangeFinding


class Comparison(Frozen):
    """This report against an earlier one.

    `by` is `absolute` where each contender's own `metric` is compared, `relative` where its speed-up over the first
    contender is. A change within `tolerance` (0.05: 5%) is no regression, however certain it is.
    """

    created: str
    tool_version: str
    by: ComparedBy
    metric: Metric
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    changes: Annotated[tuple[Change, ...], Field(min_length=1)]
    notes: tuple[str, ...] = ()

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The changes that fail the comparison."""
        return tuple(change for change in self.changes if change.finding == "slower")


class Report(Frozen):
    """`report.json`: several plans measured in turn under one scenario; the first is the reference of the ratios."""

    schema_version: Literal[2] = REPORT_SCHEMA_VERSION
    kind: Literal["report"] = "report"
    tool_version: str
    created: str
    settings: ScenarioSettings
    machine: Machine
    contenders: Annotated[tuple[Contender, ...], Field(min_length=1)]
    ratios: tuple[Ratio, ...]
    comparison: Comparison | None = None

    @model_validator(mode="after")
    def _contenders_fit(self) -> Self:
        labels = [contender.label for contender in self.contenders]
        if len(set(labels)) != len(labels):
            raise ValueError("contenders must have different labels")
        if len({len(contender.rounds) for contender in self.contenders}) != 1:
            raise ValueError("every contender must have the same number of rounds")
        for ratio in self.ratios:
            if ratio.contender not in labels or ratio.reference != labels[0]:
                raise ValueError("ratios must compare a contender with the first one")
        return self

    @property
    def reference(self) -> Contender:
        """The contender that the ratios compare with."""
        return self.contenders[0]

    def ratio_of(self, label: str, metric: Metric) -> Ratio | None:
        """Return a contender's ratio to the reference; None for the reference itself."""
        return next((ratio for ratio in self.ratios if (ratio.contender, ratio.metric) == (label, metric)), None)


def read_report(folder: Path) -> Report:
    """Read the report in `folder`; raise `ArtifactError` if it is missing, damaged or of another schema version."""
    report, _ = read_manifest(folder / "report.json", Report, kind="report", schema_version=REPORT_SCHEMA_VERSION)
    return report
