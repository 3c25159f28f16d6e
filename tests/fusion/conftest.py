"""Comparison that looks at the border pixels on their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def split_border(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels of the outermost ring and the others, `[N, C, pixels]` each."""
    ring = torch.zeros(x.shape[2:], dtype=torch.bool)
    ring[[0, -1]] = True
    ring[:, [0, -1]] = True
    return x[:, :, ring], x[:, :, ~ring]


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Tensor, Tensor], None]:
    """A function (expected, found) that holds `[N, C, H, W]` to 1e-12 relative, border and interior apart."""

    def check(expected: Tensor, found: Tensor) -> None:
        assert expected.dtype == found.dtype == torch.float64
        assert expected.shape == found.shape
        scale = float(expected.abs().max())  # zero where ReLU lets nothing through: then equal to the bit
        for part, wanted, got in zip(("border", "interior"), split_border(expected), split_border(found), strict=True):
            error = float((wanted - got).abs().max()) if wanted.numel() else 0.0
            assert error <= 1e-12 * scale, f"{part}: {error / scale:.1e} relative"

    return check


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread: None) -> None:
    """Apply `one_thread` to all tests here: most networks are tiny, and the large ones are bound by memory."""
