"""What the benchmark and the process of one contender tell each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from parnet_deploy.artifacts.report import BenchRound, ScenarioSettings
from parnet_deploy.artifacts.schemas import Frozen


class WorkerRequest(Frozen):
    """Measure a plan once.

    `launched_ns` is `time.monotonic_ns()` just before the process was launched: that clock is the system's, so the
    process can tell how long it took to start. The result is written to `result_path`.
    """

    plan: str
    settings: ScenarioSettings
    launched_ns: Annotated[int, Field(ge=0)]
    result_path: str


class WorkerResult(Frozen):
    """The round, and the settings as they were used: with the server's targets where the request left them open."""

    settings: ScenarioSettings
    round: BenchRound
