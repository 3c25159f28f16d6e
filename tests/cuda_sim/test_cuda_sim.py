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


def test_graphs_of_engines_go_into_the_captured_schedule(run_inside: RunInside) -> None:
    counts = run_inside("test_device_graphs.py")
    assert counts["graphs in captures"] >= 30


def test_split_networks_run_right_and_only_with_all_their_waits(run_inside: RunInside) -> None:
    counts = run_inside("test_cuda_pipeline.py")
    assert counts["runs with random delays"] >= 1000
    assert counts["schedules"] >= 40
    assert counts["mutations caught"] >= 50
    assert counts["faults injected"] >= 400
    assert counts["concurrent requests"] >= 64


def test_sessions_answer_from_several_gpus(run_inside: RunInside) -> None:
    counts = run_inside("test_sessions.py")
    assert counts["sessions"] >= 50
    assert counts["faults injected"] >= 300
    assert counts["concurrent requests"] >= 192


@pytest.mark.slow
def test_parnet_l_on_three_gpus(run_inside: RunInside) -> None:
    assert run_inside("test_parnet_l.py")["ParNet-L on three GPUs"] == 6


def test_streams_take_the_times_that_are_predicted(run_inside: RunInside) -> None:
    counts = run_inside("test_predictions.py")
    assert counts["schedules that ran as simulated"] >= 360
    assert counts["schedules that ran as simulated, as graphs"] >= 45
    assert counts["mutations caught by their times"] >= 10


def test_links_are_measured_as_they_were_set(run_inside: RunInside) -> None:
    counts = run_inside("test_links.py")
    assert counts["links measured"] >= 60
    assert counts["faults injected"] >= 900


@pytest.mark.parametrize("devices", [1, 4])
def test_doctor_tells_the_gpus_and_measures_their_links(run_inside: RunInside, devices: int) -> None:
    counts = run_inside("test_doctor.py", devices)
    assert counts["links measured"] == devices * (devices + 1)
