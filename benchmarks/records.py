"""What is kept of a benchmark: one record for each run, and the results of a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmarks.cases import PARNETS, RESNETS, Role
from parnet_deploy.artifacts.measurements import LatencyStatistics, Milliseconds
from parnet_deploy.artifacts.report import Machine
from parnet_deploy.artifacts.schemas import Frozen, Positive

Ratio = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Run(Frozen):
    """One turn of a contender, alone in a process.

    `process_ms` is from launch to its first line with NumPy there, `open_ms` until it is ready, `first_ms` its first
    answer. `device_ms` is the median of what a GPU's own clock says of a request, copies included, where it was asked.
    `difference` is max|a-b| / max|a| of its logits to those of the network in torch, None where it has none.
    """

    latency: LatencyStatistics
    process_ms: Milliseconds
    open_ms: Milliseconds
    first_ms: Milliseconds
    peak_bytes: Positive
    device_ms: Milliseconds | None = None
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


class Sitting(Frozen):
    """What was measured in one go: the cases, and on what and when; `created` is in UTC, in ISO form."""

    tool_version: str
    created: str
    machine: Machine
    versions: dict[str, str]
    load_at_start: float
    cases: tuple[CaseResult, ...]


class Results(Frozen):
    """`benchmarks/results/MACHINE.json`: every case once, as it was last measured; the latest sitting is the last."""

    schema_version: Literal[2] = 2
    kind: Literal["benchmarks"] = "benchmarks"
    device: str
    sittings: Annotated[tuple[Sitting, ...], Field(min_length=1)]

    @property
    def cases(self) -> tuple[CaseResult, ...]:
        """Return all cases: smaller images and batches first, and of the same size in the order of the networks."""
        cases = (case for sitting in self.sittings for case in sitting.cases)
        return tuple(sorted(cases, key=lambda case: (case.pixels, case.batch, _rank(case.network))))


def with_sitting(earlier: Results | None, device: str, sitting: Sitting) -> Results:
    """Add a sitting to what was measured before: its cases take the place of earlier ones, the others stay."""
    anew = {_key(case) for case in sitting.cases}
    kept = []
    for old in () if earlier is None else earlier.sittings:
        cases = tuple(case for case in old.cases if _key(case) not in anew)
        kept += [old.model_copy(update={"cases": cases})] if cases else []
    return Results(device=device, sittings=(*kept, sitting))


def _rank(network: str) -> int:
    networks = (*PARNETS, *RESNETS)
    return networks.index(network) if network in networks else len(networks)


def _key(case: CaseResult) -> tuple[str, int, int]:
    return case.network, case.pixels, case.batch
