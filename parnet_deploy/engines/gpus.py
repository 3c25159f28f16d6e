"""The GPUs of this machine, asked of the driver itself: no CUDA package is needed to build engines."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from threading import RLock

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.errors import EngineError
from parnet_deploy.planning.placement import device_lanes

# CUdevice_attribute of the driver API.
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_NAME_BYTES = 256
_PREFIX = "cuda:"

# Held by whoever loads, binds or closes engines, and whoever captures a schedule into a graph. The former allocates
# memory and waits for the device, and the driver ends a capture for that (CUDA programming guide, "Prohibited and
# Unhandled Operations"); torch, too, captures one graph at a time.
DEVICE_SETUP = RLock()


@dataclass(frozen=True)
class Gpu:
    """A device in the driver's own order, which `CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` decide."""

    ordinal: int
    name: str
    compute_capability: str
    memory_bytes: int

    @property
    def device(self) -> str:
        """What plans call it: `cuda:0`."""
        return f"{_PREFIX}{self.ordinal}"


@cache
def _load() -> tuple[ctypes.CDLL | None, str | None]:
    """Return the driver, or why there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return None, f"the driver's library does not load: {error}"
    status = driver.cuInit(0)
    return (driver, None) if status == 0 else (None, f"the driver does not start: {_error_name(driver, status)}")


def _error_name(driver: ctypes.CDLL, status: int) -> str:
    name = ctypes.c_char_p()
    driver.cuGetErrorName(status, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {status}"


def _driver() -> ctypes.CDLL | None:
    return _load()[0]


def driver_problem() -> str | None:
    """Return why this process has no CUDA driver; none if it has one."""
    return _load()[1]


def cuda_version() -> str | None:
    """Return the newest version of CUDA that the driver is for, as in `13.0`; none where there is no driver."""
    driver = _driver()
    if driver is None:
        return None
    version = ctypes.c_int()
    _check(driver.cuDriverGetVersion(ctypes.byref(version)), "tell its version")
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def list_peers() -> frozenset[tuple[int, int]]:
    """Return every (device, peer) where the device reaches the memory of its peer directly.

    Raises:
        EngineError: the driver is there and fails.
    """
    driver, count = _driver(), len(list_gpus())
    if driver is None:
        return frozenset()
    found = set()
    for device, peer in permutations(range(count), 2):
        can = ctypes.c_int()
        _check(driver.cuDeviceCanAccessPeer(ctypes.byref(can), device, peer), f"tell what device {device} reaches")
        if can.value:
            found.add((device, peer))
    return frozenset(found)


def _required_driver() -> ctypes.CDLL:
    driver = _driver()
    if driver is None:
        raise EngineError("no CUDA driver here", remedy="install NVIDIA's driver (libcuda.so.1)")
    return driver


def _check(status: int, action: str) -> None:
    if status != 0:
        raise EngineError(f"the CUDA driver cannot {action} (error {status})", remedy="look at: nvidia-smi")


def call_driver(name: str, *arguments: object) -> None:
    """Call a function of the driver that answers a CUresult; without the GIL.

    Raises:
        EngineError: no driver, or another answer than success.
    """
    status = getattr(_required_driver(), name)(*arguments)
    if status != 0:
        raise EngineError(f"the CUDA driver answered {name} with error {status}", remedy="look at: nvidia-smi")


def list_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process sees; none where there is no driver.

    Raises:
        EngineError: the driver is there and fails.
    """
    driver = _driver()
    if driver is None:
        return ()
    count = ctypes.c_int()
    _check(driver.cuDeviceGetCount(ctypes.byref(count)), "count the devices")
    return tuple(_describe(driver, ordinal) for ordinal in range(count.value))


def _describe(driver: ctypes.CDLL, ordinal: int) -> Gpu:
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check(driver.cuDeviceGetName(name, _NAME_BYTES, ordinal), f"name device {ordinal}")
    numbers = []
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        number = ctypes.c_int()
        _check(driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, ordinal), f"describe device {ordinal}")
        numbers.append(number.value)
    memory = ctypes.c_size_t()
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), ordinal), f"measure device {ordinal}")
    return Gpu(ordinal, name.value.decode(errors="replace"), "".join(map(str, numbers)), memory.value)


@contextmanager
def current_gpu(ordinal: int) -> Iterator[None]:
    """Make a device's primary context current in this thread while the block runs, and give it back at its end.

    TensorRT's builder belongs to the device that is current when it is made. The primary context is the one that the
    CUDA runtime, torch and TensorRT share.

    Raises:
        EngineError: no driver, or the driver refuses.
    """
    driver = _required_driver()
    context = ctypes.c_void_p()
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal), f"open device {ordinal}")
    try:
        _check(driver.cuCtxPushCurrent_v2(context), f"make device {ordinal} current")
        try:
            yield
        finally:
            driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(ordinal)


def device_ordinal(device: str) -> int:
    """Return the driver's number of a device: 1 for `cuda:1`."""
    return int(device.removeprefix(_PREFIX))


def gpu_lanes(devices: Sequence[int] | None, count: int) -> tuple[Lane, ...]:
    """Return one lane on each device that was named, or as many streams of the first GPU as there are stages."""
    if devices is None:
        return device_lanes(f"{_PREFIX}0", count)
    return tuple(Lane(device=f"{_PREFIX}{ordinal}") for ordinal in devices)


def find_gpus(devices: Sequence[str], gpus: Sequence[Gpu]) -> tuple[Gpu, ...]:
    """Return the GPUs that are meant by `devices`.

    Raises:
        EngineError: a device that is not there, or GPUs of different compute capability, which one process cannot
            serve together (github.com/NVIDIA/TensorRT/issues/4526).
    """
    by_device = {gpu.device: gpu for gpu in gpus}
    for device in devices:
        if device not in by_device:
            seen = ", ".join(f"{gpu.device} {gpu.name}" for gpu in gpus)
            raise EngineError(f"no device {device}", remedy=f"this process sees: {seen} (CUDA_VISIBLE_DEVICES)")
    found = tuple(by_device[device] for device in devices)
    if len({gpu.compute_capability for gpu in found}) > 1:
        kinds = ", ".join(f"{gpu.device} {gpu.name} (compute capability {gpu.compute_capability})" for gpu in found)
        raise EngineError(
            f"GPUs of different compute capability in one process: {kinds}",
            remedy="one process for each, with CUDA_VISIBLE_DEVICES set to its GPUs",
        )
    return found


def gpu_records(devices: Sequence[str]) -> tuple[DeviceRecord, ...]:
    """Describe GPUs of this machine, each with its own compute capability: `sm90`.

    Raises:
        EngineError: no GPU here, and as `find_gpus`.
    """
    gpus = list_gpus()
    if not gpus:
        raise EngineError("no GPU here", remedy="use a machine with an NVIDIA GPU and its driver; check nvidia-smi")
    found = find_gpus(devices, gpus)
    return tuple(
        DeviceRecord(device=gpu.device, name=gpu.name, capability=f"sm{gpu.compute_capability}") for gpu in found
    )


def covers(built_for: str, found: str) -> bool:
    """Tell if engines for the capabilities `built_for` run on a GPU of capability `found`.

    `sm86 sm89` names each architecture, `sm80+` an architecture and all later ones.
    """
    if found in built_for.split():
        return True
    own, oldest = (re.fullmatch(pattern, text) for pattern, text in ((r"sm(\d+)", found), (r"sm(\d+)\+", built_for)))
    return own is not None and oldest is not None and int(own[1]) >= int(oldest[1])
