"""How a session uses the CUDA driver; a benchmark's report records it."""

from __future__ import annotations

from typing import Literal

from parnet_deploy.artifacts.schemas import Frozen

CudaAdapter = Literal["pycuda", "cuda-bindings"]

# `auto` enqueues piece by piece what cannot be captured into CUDA graphs, `always` refuses it.
GraphMode = Literal["auto", "always", "never"]


class CudaOptions(Frozen):
    """Settings of a session on GPUs; on the processor they change nothing.

    `adapter` is the package that reaches the driver, by default pycuda where it is installed. `nvtx` names requests and
    stages for Nsight Systems.
    """

    adapter: CudaAdapter | None = None
    graphs: GraphMode = "auto"
    nvtx: bool = False
