"""How a session uses the CUDA driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Adapter = Literal["pycuda", "cuda-bindings"]

# `auto` enqueues piece by piece what cannot be captured into CUDA graphs, `always` refuses it.
GraphMode = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class CudaOptions:
    """Settings of a session on GPUs.

    `adapter` is the package that reaches the driver, by default pycuda where it is installed. `nvtx` names requests and
    stages for Nsight Systems.
    """

    adapter: Adapter | None = None
    graphs: GraphMode = "auto"
    nvtx: bool = False
