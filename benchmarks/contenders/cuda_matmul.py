"""A GPU's peak in float16, as far as a large matrix product by cuBLAS shows it."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.contenders.base import SEED, CannotRunError, Job, Opened
from benchmarks.contenders.matmul import CUDA_SIZE


def prepare(job: Job) -> None:
    """Nothing to prepare."""


def open_contender(job: Job) -> Opened:
    """Draw two matrices on the device; what is asked is not looked at."""
    del job
    if not torch.cuda.is_available():
        raise CannotRunError("torch sees no CUDA device")
    generator = torch.Generator("cuda").manual_seed(SEED)
    # torch.cuda is only partly annotated.
    cuda: Any = torch.cuda
    a, b = torch.randn(2, CUDA_SIZE, CUDA_SIZE, device="cuda", dtype=torch.float16, generator=generator)
    product = torch.empty_like(a)

    def time_ms() -> float:
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        start.record()
        torch.matmul(a, b, out=product)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    return Opened(lambda _: product[:1].cpu().numpy(), time_ms, details={"torch": torch.__version__})
