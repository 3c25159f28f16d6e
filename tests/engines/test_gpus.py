"""Asking the driver for GPUs, and making one current: against a driver that keeps a record of its calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from parnet_deploy.artifacts.schemas import DeviceRecord
from parnet_deploy.engines import gpus
from parnet_deploy.engines.gpus import (
    Gpu,
    call_driver,
    cuda_version,
    current_gpu,
    device_ordinal,
    driver_problem,
    find_gpus,
    gpu_lanes,
    gpu_records,
    list_gpus,
    list_peers,
)
from parnet_deploy.errors import EngineError


class Driver:
    """The calls of libcuda that are used; `failing` is the one that answers with an error."""

    def __init__(self, failing: str | None = None) -> None:
        self.calls: list[str] = []
        self.failing = failing

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == self.failing:
                return 999
            if name == "cuDeviceGetCount":
                arguments[0]._obj.value = 2
            elif name == "cuDeviceGetName":
                arguments[0].value = b"NVIDIA GeForce RTX 5090"
            elif name == "cuDeviceGetAttribute":
                arguments[0]._obj.value = {75: 12, 76: 0}[arguments[1]]
            elif name == "cuDeviceTotalMem_v2":
                arguments[0]._obj.value = 32 << 30
            elif name == "cuDriverGetVersion":
                arguments[0]._obj.value = 12090
            elif name == "cuDeviceCanAccessPeer":
                arguments[0]._obj.value = arguments[1] == 1
            return 0

        return call


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def install(driver: Driver | None) -> Driver | None:
        monkeypatch.setattr(gpus, "_driver", lambda: driver)
        return driver

    return install  # type: ignore[return-value]


def test_no_driver_is_no_gpu(use: Any) -> None:
    use(None)
    assert list_gpus() == ()
    with pytest.raises(EngineError, match="no CUDA driver"), current_gpu(0):
        raise AssertionError


def test_a_driver_that_does_not_start_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(status: int, text: Any) -> int:
        text._obj.value = b"CUDA_ERROR_NO_DEVICE" if status == 100 else None
        return 0

    for status, reason in ((100, "CUDA_ERROR_NO_DEVICE"), (7, "error 7")):
        gpus._load.cache_clear()
        driver = SimpleNamespace(cuInit=lambda _, status=status: status, cuGetErrorName=name)
        monkeypatch.setattr(ctypes, "CDLL", lambda _, driver=driver: driver)
        assert list_gpus() == ()
        assert list_peers() == frozenset()
        assert cuda_version() is None
        assert driver_problem() == f"the driver does not start: {reason}"

    def absent(_: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    gpus._load.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", absent)
    assert list_gpus() == ()
    assert driver_problem() == "the driver's library does not load: libcuda.so.1: cannot open shared object file"
    gpus._load.cache_clear()


def test_gpus_are_described(use: Any) -> None:
    use(Driver())
    assert list_gpus() == tuple(Gpu(ordinal, "NVIDIA GeForce RTX 5090", "120", 32 << 30) for ordinal in range(2))
    assert list_peers() == {(1, 0)}
    assert cuda_version() == "12.9"


DESCRIBING = ["cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDeviceTotalMem_v2"]


@pytest.mark.parametrize(
    ("ask", "failing"),
    [(list_gpus, name) for name in DESCRIBING]
    + [(list_peers, "cuDeviceCanAccessPeer"), (cuda_version, "cuDriverGetVersion")],
)
def test_a_driver_that_fails_is_reported(use: Any, ask: Callable[[], object], failing: str) -> None:
    use(Driver(failing))
    with pytest.raises(EngineError, match="error 999"):
        ask()


OPEN = ["cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2"]
CLOSE = ["cuCtxPopCurrent_v2", "cuDevicePrimaryCtxRelease_v2"]


def test_a_context_is_given_back_also_after_a_failure(use: Any) -> None:
    driver = use(Driver())
    with current_gpu(1):
        assert driver.calls == OPEN
    assert driver.calls == OPEN + CLOSE
    with pytest.raises(ZeroDivisionError), current_gpu(1):
        raise ZeroDivisionError
    assert driver.calls == 2 * (OPEN + CLOSE)


@pytest.mark.parametrize(("failing", "calls"), [(OPEN[0], OPEN[:1]), (OPEN[1], [*OPEN, CLOSE[1]])])
def test_what_was_not_opened_is_not_given_back(use: Any, failing: str, calls: list[str]) -> None:
    driver = use(Driver(failing))
    with pytest.raises(EngineError, match="error 999"), current_gpu(0):
        raise AssertionError
    assert driver.calls == calls


def test_any_call_of_the_driver_must_succeed(use: Any) -> None:
    driver = use(Driver("cuGraphLaunch"))
    call_driver("cuStreamIsCapturing", ctypes.c_void_p(1))
    with pytest.raises(EngineError, match="the CUDA driver answered cuGraphLaunch with error 999"):
        call_driver("cuGraphLaunch", ctypes.c_void_p(1), ctypes.c_void_p(2))
    assert driver.calls == ["cuStreamIsCapturing", "cuGraphLaunch"]
    use(None)
    with pytest.raises(EngineError, match="no CUDA driver here"):
        call_driver("cuGraphLaunch")


def test_gpus_are_found_by_the_name_that_plans_have() -> None:
    first, second, other = (
        Gpu(0, "H100", "90", 80 << 30),
        Gpu(1, "H100", "90", 80 << 30),
        Gpu(2, "A100", "80", 40 << 30),
    )
    assert find_gpus(["cuda:1", "cuda:0"], (first, second, other)) == (second, first)
    assert find_gpus(["cuda:2"], (first, second, other)) == (other,)
    assert [device_ordinal(gpu.device) for gpu in (first, second, other)] == [0, 1, 2]
    with pytest.raises(EngineError, match="no device cuda:3") as caught:
        find_gpus(["cuda:0", "cuda:3"], (first, other))
    assert caught.value.remedy == "this process sees: cuda:0 H100, cuda:2 A100 (CUDA_VISIBLE_DEVICES)"
    with pytest.raises(
        EngineError, match=r"cuda:1 H100 \(compute capability 90\), cuda:2 A100 \(compute capability 80"
    ):
        find_gpus(["cuda:1", "cuda:2"], (first, second, other))


def test_records_and_lanes_of_gpus(use: Any) -> None:
    assert [str(lane) for lane in gpu_lanes(None, 3)] == ["cuda:0/0", "cuda:0/1", "cuda:0/2"]
    assert [str(lane) for lane in gpu_lanes((2, 0), 5)] == ["cuda:2/0", "cuda:0/0"]
    use(Driver())
    assert gpu_records(["cuda:1"]) == (
        DeviceRecord(device="cuda:1", name="NVIDIA GeForce RTX 5090", capability="sm120"),
    )
    use(None)
    with pytest.raises(EngineError, match="no GPU here"):
        gpu_records(["cuda:0"])
