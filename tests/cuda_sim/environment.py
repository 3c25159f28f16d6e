"""What processes see that run on the CUDA driver in host memory, and on which adapters they can."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from tests.cuda_sim.build_pycuda import pycuda_folder, why_not_built

ADAPTERS = ("cuda-bindings", "pycuda")
# What would hide devices, or attach another tool.
_LEFT_OUT = ("CUDA_VISIBLE_DEVICES", "NVTX_INJECTION64_PATH")


def why_missing(adapter: str) -> str | None:
    """Return why tests cannot run on an adapter, if they cannot."""
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return "cuda-bindings is not installed (pip install cuda-bindings)"
    if adapter == "pycuda" and not pycuda_folder().exists() and find_spec("pycuda") is None:
        return f"pycuda is not built: {why_not_built()}"
    return None


def variables(libcuda: Path) -> dict[str, str]:
    """Return the variables of a process that finds `libcuda.so.1` in a folder, and pycuda where it was built."""
    return {
        **{name: value for name, value in os.environ.items() if name not in _LEFT_OUT},
        **_extended("LD_LIBRARY_PATH", libcuda),
        **_extended("PYTHONPATH", pycuda_folder()),
        "OMP_NUM_THREADS": "1",
    }


def _extended(variable: str, folder: Path) -> dict[str, str]:
    return {variable: os.pathsep.join(filter(None, (str(folder), os.environ.get(variable))))}
