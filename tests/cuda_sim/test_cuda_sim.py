"""CUDA code on a driver in host memory: the driver itself, the facade, and the executor with split networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

pytestmark = pytest.mark.cuda_sim
RunInside = Callable[..., Counter[str]]


def test_the_driver_in_host_memory_orders_only_what_calls_order(run_inside: RunInside) -> None:
    counts = run_inside("test_libcuda.py")
    assert counts["orders seen without a wait"] == 2


def test_the_facade_frees_everything_whatever_fails(run_inside: RunInside) -> None:
    counts = run_inside("test_facade.py")
    assert counts["faults injected"] >= 50
