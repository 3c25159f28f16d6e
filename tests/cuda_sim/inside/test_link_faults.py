"""Measuring links when any one call to the driver fails: an error that names it, and nothing left behind.

On three devices, which have links of every kind; each further one only makes the calls more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from parnet_deploy.errors import EngineError
from parnet_deploy.planning.measured_links import LinkReport
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.links import Sweep, measure_links

PLACES = ("cpu", "cuda:0", "cuda:1", "cuda:2")
SWEEP = Sweep(sizes_bytes=(64, 128), copies=1, repeats=1)


@pytest.fixture
def links(sim: Any) -> Iterator[None]:
    """Copies take virtual time, and two of the devices do not reach each other's memory."""
    sim.clock(on=True)
    for source, target in permutations(PLACES, 2):
        sim.link(source, target, 5.0, 20.0)
    sim.set_peer(0, 1, reach=False)
    yield
    sim.set_peer(0, 1, reach=True)


@pytest.mark.usefixtures("links")
def test_whatever_call_fails_nothing_is_left(sim: Any, driver: Driver, counts: Counter[str]) -> None:
    def measure() -> LinkReport:
        return measure_links(driver, sweep=SWEEP)

    begin = sim.calls()
    report = measure()
    calls = sim.calls() - begin
    assert {link.path for link in report.links} == {"host", "peer", "staged"}
    for call in range(1, calls + 1):
        sim.fail_at(call, 719)
        try:
            assert measure() == report
        except EngineError as error:
            what = error.what
        else:
            what = f"{sim.failed_call()} with CUDA_ERROR_LAUNCH_FAILED" if driver.name == "pycuda" else ""
        failed = sim.failed_call()
        sim.fail_at(0)
        assert failed
        assert f"{failed} with CUDA_ERROR_LAUNCH_FAILED" in what
        assert sim.live() == {}, f"after {failed}, call {call}"
        counts["faults injected"] += 1
