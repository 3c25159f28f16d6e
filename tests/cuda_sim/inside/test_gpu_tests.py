"""The tests of `tests/gpu/test_gpu_driver.py`, on the driver in host memory and with its `driver` fixture."""

from tests.gpu.test_gpu_driver import *  # noqa: F403

del driver  # noqa: F821
