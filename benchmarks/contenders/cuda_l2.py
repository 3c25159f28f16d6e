"""Empty a GPU's second-level cache between requests, so that each reads its weights from memory."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders.base import CannotRunError

# How many times its size is written; once could leave lines behind.
_TIMES = 2


def _checked(result: tuple[Any, ...]) -> Any:
    status, *values = result
    if int(status) != 0:
        raise CannotRunError(f"the CUDA driver answered {status}")
    return values[0] if values else None


class L2Flush:
    """A buffer of device 0 that is larger than its cache; calling it overwrites the buffer and waits.

    It lives in the primary context, which torch and our sessions use as well.
    """

    def __init__(self) -> None:
        """Raise `CannotRunError` where there is no driver or device."""
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise CannotRunError("cuda-bindings is not installed") from error
        self._driver = driver
        try:
            _checked(driver.cuInit(0))
        except RuntimeError as error:
            raise CannotRunError(f"no CUDA driver ({error})") from error
        device = _checked(driver.cuDeviceGet(0))
        self._context = _checked(driver.cuDevicePrimaryCtxRetain(device))
        attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE
        self.l2_bytes: int = _checked(driver.cuDeviceGetAttribute(attribute, device))
        self._size = max(_TIMES * self.l2_bytes, 2**20)
        _checked(driver.cuCtxPushCurrent(self._context))
        self._buffer = _checked(driver.cuMemAlloc(self._size))
        _checked(driver.cuCtxPopCurrent())

    def __call__(self) -> None:
        """Overwrite the buffer, and wait for that and everything before it."""
        _checked(self._driver.cuCtxPushCurrent(self._context))
        _checked(self._driver.cuMemsetD8(self._buffer, 0, self._size))
        _checked(self._driver.cuCtxSynchronize())
        _checked(self._driver.cuCtxPopCurrent())
