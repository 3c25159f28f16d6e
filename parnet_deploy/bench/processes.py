"""Run one measurement in a child process, so that nothing else of this benchmark shares its memory or threads."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypeVar

from parnet_deploy.artifacts.measurements import ScenarioSettings, SweepPoint
from parnet_deploy.bench.protocol import RoundRequest, RoundResult, SweepRequest, SweepResult
from parnet_deploy.errors import InferenceError

_STDERR_LINES = 8

Result = TypeVar("Result", RoundResult, SweepResult)


def run_round(plan: Path, label: str, settings: ScenarioSettings) -> RoundResult:
    """Measure one round of a plan.

    Raises:
        InferenceError: the process failed; the end of what it wrote to standard error is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="parnet-bench-") as folder:
        request = RoundRequest(
            plan=str(plan.absolute()),
            settings=settings,
            result_path=str(Path(folder) / "result.json"),
            launched_ns=time.monotonic_ns(),
        )
        return _run_worker(request, label, RoundResult)


def run_point(plan: Path, label: str, settings: ScenarioSettings, *, concurrency: int, batch: int) -> SweepPoint:
    """Measure one point of a sweep; raise `InferenceError` as `run_round` does."""
    with tempfile.TemporaryDirectory(prefix="parnet-bench-") as folder:
        request = SweepRequest(
            plan=str(plan.absolute()),
            settings=settings,
            concurrency=concurrency,
            batch=batch,
            result_path=str(Path(folder) / "result.json"),
            launched_ns=time.monotonic_ns(),
        )
        return _run_worker(request, label, SweepResult).point


def _run_worker(request: RoundRequest | SweepRequest, label: str, result: type[Result]) -> Result:
    # -P keeps files of the current folder from being imported in place of the standard library's.
    command = [sys.executable, "-P", "-m", "parnet_deploy.bench.worker"]
    completed = subprocess.run(
        command, input=request.model_dump_json(), capture_output=True, text=True, errors="replace", check=False
    )
    if completed.returncode != 0:
        raise InferenceError(
            f"{label} could not be measured, its process {_ending(completed.returncode)}:\n" + _tail(completed.stderr),
            where=request.plan,
            remedy="see whether the plan runs alone: parnet-deploy run PLAN IMAGE",
        )
    return result.model_validate_json(Path(request.result_path).read_bytes())


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _tail(text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line[:300]}" for line in lines[-_STDERR_LINES:]) or "  (it wrote nothing to standard error)"
