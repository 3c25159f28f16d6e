"""The machine's peak, as far as a large float32 matrix product by NumPy's BLAS shows it."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders.base import SEED, Job, Opened

SIZE = 3072
GFLOP = 2 * SIZE**3 / 1e9
# That of `cuda_matmul`, which cannot be imported without torch.
CUDA_SIZE = 8192
CUDA_GFLOP = 2 * CUDA_SIZE**3 / 1e9


def prepare(job: Job) -> None:
    """Nothing to prepare."""


def open_contender(job: Job) -> Opened:
    """Draw two matrices; what is asked is not looked at."""
    del job
    a, b = np.random.default_rng(SEED).standard_normal((2, SIZE, SIZE), np.float32)
    product = np.empty_like(a)
    return Opened(lambda _: np.matmul(a, b, out=product), details={"numpy": np.__version__})
