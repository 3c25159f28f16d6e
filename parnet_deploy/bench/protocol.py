"""What the benchmark and the process of one run tell each other."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from parnet_deploy.artifacts.measurements import BenchRound, ScenarioSettings, SweepPoint
from parnet_deploy.artifacts.schemas import Frozen, Positive


class _Request(Frozen):
    """`launched_ns` is `time.monotonic_ns()` just before the process was launched.

    That clock is the system's, so the process can tell how long it took to start. The result is written to
    `result_path`.
    """

    plan: str
    settings: ScenarioSettings
    launched_ns: Annotated[int, Field(ge=0)]
    result_path: str


class RoundRequest(_Request):
    """Measure one round of a plan with LoadGen."""

    kind: Literal["round"] = "round"


class SweepRequest(_Request):
    """Measure a plan once in a closed loop."""

    kind: Literal["sweep"] = "sweep"
    concurrency: Positive
    batch: Positive


class RoundResult(Frozen):
    """The round, and the settings as they were used: with the server's targets where the request left them open."""

    settings: ScenarioSettings
    round: BenchRound


class SweepResult(Frozen):
    """The point that was asked for."""

    point: SweepPoint
