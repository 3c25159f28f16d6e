"""Make each driver call of something fail in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from parnet_deploy.errors import EngineError, InferenceError
from parnet_deploy.runtime.cuda.driver import Driver

LAUNCH_FAILED = 719
# What pycuda gives up it does so in destructors, which print what failed and cannot raise it.
PRINTED_BY_PYCUDA = ("cuMemFree", "cuMemFreeHost", "cuStreamDestroy")


def each_failing_call(
    sim: Any, driver: Driver, capfd: pytest.CaptureFixture[str], counts: Counter[str], use: Callable[[], None]
) -> Iterator[int]:
    """Call `use` as often as it makes driver calls, another one failing each time, and yield the number of that one.

    Each failure must be reported by its name, and nothing may be left alive or misused.
    """
    begin = sim.calls()
    use()
    calls = sim.calls() - begin
    for call in range(1, calls + 1):
        capfd.readouterr()
        reports: list[str] = []
        sim.fail_at(call, LAUNCH_FAILED)
        try:
            use()
        except (EngineError, InferenceError) as error:
            reports.append(error.what)
        failed = sim.failed_call()
        sim.fail_at(0)
        assert failed, f"call {call} of {calls} was not reached"
        if driver.name == "pycuda" and failed in PRINTED_BY_PYCUDA:
            assert f"{failed} failed: " in capfd.readouterr().err
        else:
            assert failed in reports[0]
            assert "CUDA_ERROR_LAUNCH_FAILED" in reports[0]
        assert sim.live() == {}, f"after {failed}, call {call} of {calls}"
        assert sim.faults() == ""
        counts["faults injected"] += 1
        yield call
    use()
