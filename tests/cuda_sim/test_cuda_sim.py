"""CUDA code on a driver in host memory: the driver itself, the facade, and pipelines with split networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.cuda_sim
RunInside = Callable[..., Counter[str]]


def test_the_driver_in_host_memory_orders_only_what_calls_order(run_inside: RunInside) -> None:
    counts = run_inside("test_libcuda.py")
    assert counts["orders seen without a wait"] == 2


def test_the_facade_frees_everything_whatever_fails(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_facade.py", adapter=adapter)
    assert counts["faults injected"] >= 50


def test_graphs_of_engines_go_into_the_captured_schedule(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_device_graphs.py", adapter=adapter)
    assert counts["graphs in captures"] >= 30


def test_split_networks_answer_the_single_sessions_bytes(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_pipelines.py", adapter=adapter)
    assert counts["runs with random delays"] >= 1000
    assert counts["schedules"] >= 40
    assert counts["concurrent requests"] >= 64


def test_split_networks_run_right_only_with_all_their_waits(run_inside: RunInside, adapter: str) -> None:
    assert run_inside("test_waits.py", adapter=adapter)["mutations caught"] >= 50


def test_tensors_cross_between_devices_by_the_way_that_there_is(run_inside: RunInside, adapter: str) -> None:
    assert run_inside("test_copies.py", adapter=adapter)["tests on an adapter"] == 2


def test_pipelines_free_everything_whatever_fails(run_inside: RunInside, adapter: str) -> None:
    assert run_inside("test_faults.py", adapter=adapter)["faults injected"] >= 300


def test_graphs_hold_to_the_schedule(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_graphs.py", adapter=adapter)
    assert counts["mutations caught"] >= 6
    assert counts["faults injected"] >= 100


@pytest.mark.usefixtures("pycuda")
@pytest.mark.parametrize("imports", ["torch,pycuda,cuda-bindings", "cuda-bindings,pycuda,torch"])
def test_torch_and_both_adapters_live_in_one_process(run_inside: RunInside, imports: str) -> None:
    counts = run_inside("test_import_orders.py", environment={"CUDASIM_IMPORTS": imports})
    assert counts["orders of making and giving back contexts"] == 4


def test_a_tool_is_told_the_ranges_of_requests_and_stages(
    run_inside: RunInside, adapter: str, nvtx_recorder: Path, tmp_path: Path
) -> None:
    tool = {"NVTX_INJECTION64_PATH": str(nvtx_recorder), "NVTX_RECORDS": str(tmp_path / "ranges")}
    counts = run_inside("test_ranges.py", adapter=adapter, environment=tool)
    assert counts["NVTX ranges compared"] >= 70
    assert counts["faults injected"] >= 200


def test_ranges_cost_nothing_where_no_tool_is_attached(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_ranges_without_a_tool.py", adapter=adapter)
    assert counts["requests whose calls were counted"] == 12


def test_sessions_answer_from_several_gpus(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_sessions.py", adapter=adapter)
    assert counts["sessions"] >= 50
    assert counts["faults injected"] >= 300
    assert counts["concurrent requests"] >= 192


@pytest.mark.slow
def test_parnet_l_on_three_gpus(run_inside: RunInside) -> None:
    assert run_inside("test_parnet_l.py")["ParNet-L on three GPUs"] == 6


def test_streams_take_the_times_that_are_predicted(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_predictions.py", adapter=adapter)
    assert counts["schedules that ran as simulated"] >= 360
    assert counts["schedules that ran as simulated, as graphs"] >= 45
    assert counts["mutations caught by their times"] >= 10


def test_links_are_measured_as_they_were_set(run_inside: RunInside, adapter: str) -> None:
    counts = run_inside("test_links.py", adapter=adapter)
    assert counts["links measured"] >= 60


def test_links_leave_nothing_behind_whatever_fails(run_inside: RunInside, adapter: str) -> None:
    assert run_inside("test_link_faults.py", devices=3, adapter=adapter)["faults injected"] >= 900


@pytest.mark.parametrize("devices", [1, 3])
def test_doctor_tells_the_gpus_and_measures_their_links(run_inside: RunInside, devices: int, adapter: str) -> None:
    counts = run_inside("test_doctor.py", devices, adapter=adapter)
    assert counts["links measured"] == devices * (devices + 1)


def test_what_is_to_hold_on_real_gpus_holds_here(run_inside: RunInside, adapter: str) -> None:
    """So that these tests are known to work before they meet a GPU."""
    assert run_inside("test_gpu_tests.py", adapter=adapter)["tests on an adapter"] >= 9
