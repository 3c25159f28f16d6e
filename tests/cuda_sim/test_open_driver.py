"""Opening the CUDA driver where it is missing, or is another one than pycuda was built for: one clear error each."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cuda_sim.environment import variables
from tests.cuda_sim.native import build_libcuda

pytestmark = pytest.mark.cuda_sim

OPEN = """
import sys
from parnet_deploy.errors import EngineError
from parnet_deploy.runtime.cuda.driver import open_driver

try:
    driver = open_driver(*sys.argv[1:])
    print(driver.name, driver.count_devices())
except EngineError as error:
    print(error)
"""


@pytest.fixture
def open_with(libcuda_dir: Path) -> Callable[..., str]:  # noqa: ARG001
    """A function (libcuda, *adapter) that opens the driver in a process of its own and returns what is printed."""

    def open_with(libcuda: Path, *adapter: str) -> str:
        command = [sys.executable, "-c", OPEN, *adapter]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=variables(libcuda))
        assert done.stderr == ""
        return done.stdout

    return open_with


def has_libcuda() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.parametrize("damaged", [False, True])
def test_a_machine_without_a_driver_is_told(
    open_with: Callable[..., str], adapter: str, tmp_path: Path, damaged: bool
) -> None:
    if damaged:
        (tmp_path / "libcuda.so.1").write_text("not a library")
    elif has_libcuda():
        pytest.skip("this machine has a CUDA driver (libcuda.so.1)")
    what, remedy = open_with(tmp_path, adapter).splitlines()
    assert what.startswith("the CUDA driver does not load: ")
    assert remedy == "  remedy: install the NVIDIA driver; check nvidia-smi"


@pytest.mark.usefixtures("pycuda")
def test_a_driver_that_lacks_what_pycuda_is_linked_to_is_told(open_with: Callable[..., str], tmp_path: Path) -> None:
    build_libcuda(tmp_path, without=["unsupported.c"])
    for adapter in ((), ("pycuda",)):
        what, remedy = open_with(tmp_path, *adapter).splitlines()
        assert what.startswith("pycuda does not load with this machine's Python and CUDA driver: ")
        assert "undefined symbol: cu" in what
        assert remedy == "  remedy: build pycuda again here, or do without it: --cuda-adapter cuda-bindings"
    assert open_with(tmp_path, "cuda-bindings") == "cuda-bindings 1\n"


@pytest.mark.usefixtures("pycuda")
def test_pycuda_is_taken_where_it_is_installed(open_with: Callable[..., str], libcuda_dir: Path) -> None:
    assert open_with(libcuda_dir) == "pycuda 1\n"
