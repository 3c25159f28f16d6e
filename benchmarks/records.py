"""What is kept of a benchmark: one record for each run, and the results of a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmarks.cases import Role
from parnet_deploy.artifacts.measurements import LatencyStatistics, Milliseconds
from parnet_deploy.artifacts.report import Machine
from parnet_deploy.artifacts.schemas import Frozen, Positive

Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Run(Frozen):
    """One turn of a contender, alone in a process.

    `process_ms` is from launch to its first line with NumPy there, `open_ms` until it is ready, `first_ms` its first
    answer. `difference` is max|a-b| / max|a| of its logits to those of the network in torch, None where it has none.
    """

    latency: LatencyStatistics
    process_ms: Milliseconds
    open_ms: Milliseconds
    first_ms: Milliseconds
    peak_bytes: Positive
    difference: Annotated[float, Field(ge=0)] | None
    details: dict[str, str]


class Turn(Frozen):
    """A run, or the reason why there is none."""

    run: Run | None = None
    skipped: str | None = None


class ContenderResult(Frozen):
    """A contender's runs in one case, in the order of the rounds."""

    name: str
    role: Role
    precision: str
    runs: tuple[Run, ...]
    skipped: str | None = None


class CaseResult(Frozen):
    """A case: what one request costs, and everybody's runs.

    `gflop` counts two operations per multiply-accumulate of the network with merged branches, for a request.
    """

    network: str
    pixels: Positive
    batch: Positive
    gflop: Ratio
    parameters: Positive
    rounds: Positive
    contenders: tuple[ContenderResult, ...]


class Results(Frozen):
    """`benchmarks/results/MACHINE.json`."""

    schema_version: Literal[1] = 1
    kind: Literal["benchmarks"] = "benchmarks"
    tool_version: str
    created: str
    device: str
    machine: Machine
    versions: dict[str, str]
    load_at_start: float
    cases: tuple[CaseResult, ...]
