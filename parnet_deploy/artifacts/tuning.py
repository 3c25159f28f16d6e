"""Schema of a tuning's record: everything that was tried, what was measured of it, and why one was chosen."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from parnet_deploy.artifacts.measurements import Milliseconds
from parnet_deploy.artifacts.report import Machine
from parnet_deploy.artifacts.schemas import Frozen, Positive, Precision, Sha256

TUNING_SCHEMA_VERSION: Final = 1

Objective = Literal["latency", "throughput"]
# `left out`: it could not be built or run. `not eligible`: beyond a budget. `dropped`: clearly slower before the end.
Status = Literal["chosen", "measured", "dropped", "not eligible", "left out"]
PositiveMs = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TuningLimits(Frozen):
    """What was asked for: the budget of time, what is best, and what a choice must keep.

    `max_drop` is in percentage points of top-1 accuracy on `data`, against the finest precision that was given.
    `max_memory_mib` is the largest resident size of a process that runs the plan.
    """

    objective: Objective = "latency"
    budget_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    max_latency_ms: PositiveMs | None = None
    max_memory_mib: PositiveMs | None = None
    max_drop: Annotated[float, Field(ge=0)] | None = None
    data: str | None = None


class TunedBundle(Frozen):
    """A bundle that took part."""

    label: str
    sha256: Sha256
    partition: str
    precision: Precision
    batch: Positive


class Tried(Frozen):
    """A candidate. `rounds_ms` are the medians of its latest turns, each alone in a process, in turn with the others.

    A latency is of one request of the bundle's batch; `latency_ms` is the median of the rounds.
    """

    label: str
    bundle: str
    backend: str
    arrangement: str
    memory_factor: float | None = None
    is_split: bool
    status: Status
    note: str = ""
    rounds_ms: tuple[PositiveMs, ...] = ()
    latency_ms: PositiveMs | None = None
    images_per_s: PositiveMs | None = None
    cold_start_ms: Milliseconds | None = None
    peak_bytes: Positive | None = None
    top1: Annotated[float, Field(ge=0, le=100)] | None = None


class CrossoverPoint(Frozen):
    """The whole network and the split one on some cores: measured on those at hand, predicted beyond."""

    cores: Positive
    whole_ms: PositiveMs
    split_ms: PositiveMs
    is_measured: bool


class Crossover(Frozen):
    """From how many cores on a split wins, by `backend`; `wins_from` is None where it does not within the table."""

    backend: str
    whole: str
    split: str
    points: tuple[CrossoverPoint, ...]
    wins_from: Positive | None
    basis: str


class TuningReport(Frozen):
    """`tuning.json` in a tuned plan's folder, and the entry of the cache."""

    schema_version: Literal[1] = TUNING_SCHEMA_VERSION
    kind: Literal["tuning"] = "tuning"
    tool_version: str
    created: str
    machine: Machine
    limits: TuningLimits
    backends: dict[str, str]
    bundles: tuple[TunedBundle, ...]
    tried: tuple[Tried, ...]
    reasons: tuple[str, ...]
    crossover: Crossover | None = None

    @property
    def chosen(self) -> Tried:
        """The candidate that became the plan."""
        return next(entry for entry in self.tried if entry.status == "chosen")
