"""Time a plan in a process of its own, where no other plan's threads disturb it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from parnet_deploy.errors import InferenceError
from parnet_deploy.tuning.worker import TimeRequest, TimeResult

# Time a plan for some seconds on no more than so many cores, or on all; raise `ParNetError` if that fails.
TimePlan = Callable[[Path, float, int | None], TimeResult]

# A plan that takes this long over the time that was asked for has hung.
_PATIENCE_S = 300.0


def time_in_process(plan: Path, seconds: float, cores: int | None = None) -> TimeResult:
    """Time a plan for some seconds in a child process, which may use no more than so many cores.

    Raises:
        InferenceError: the process failed or gave no answer.
    """
    with tempfile.TemporaryDirectory(prefix="parnet-tune-") as folder:
        result_path = Path(folder) / "result.json"
        request = TimeRequest(
            plan=str(plan.absolute()),
            seconds=seconds,
            cores=cores,
            launched_ns=time.monotonic_ns(),
            result_path=str(result_path),
        )
        # -P keeps files of the current folder from being imported in place of the standard library's.
        command = [sys.executable, "-P", "-m", "parnet_deploy.tuning.worker"]
        try:
            done = subprocess.run(
                command,
                input=request.model_dump_json(),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=seconds + _PATIENCE_S,
            )
        except subprocess.TimeoutExpired as error:
            raise InferenceError(f"no answer in {seconds + _PATIENCE_S:.0f} s", where=plan) from error
        if done.returncode != 0:
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            raise InferenceError(f"its process ended with status {done.returncode}: {''.join(last)}", where=plan)
        return TimeResult.model_validate_json(result_path.read_bytes())
