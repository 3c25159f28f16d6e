"""Elementwise chains in one call: found where nobody else reads what is between, and the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from inspect import signature

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.nn import functional as F

from parnet_deploy.engines.torch_fusions import fuse_elementwise

Chain = Callable[..., Tensor | tuple[Tensor, ...]]


def fused(chain: Chain) -> fx.GraphModule:
    module = fx.symbolic_trace(chain)
    fuse_elementwise(module)
    module.graph.lint()
    return module


def calls(module: fx.GraphModule) -> Counter[object]:
    return Counter(node.target for node in module.graph.nodes if node.op == "call_function")


def block(x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """A block after its convolutions: y + x * g, and SiLU."""
    total = torch.add(y, torch.mul(x, g))
    return torch.mul(total, torch.sigmoid(total))


def read_twice(x: Tensor, y: Tensor) -> Tensor:
    product = torch.mul(x, y)
    return torch.add(product, product)


def gate_read_by_another(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return torch.add(torch.mul(x, gate), gate)


def product_asked_for(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    product = torch.mul(x, y)
    return torch.add(product, y), product


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (lambda x: torch.mul(x, torch.sigmoid(x)), {F.silu: 1}),
        (lambda x: torch.mul(torch.sigmoid(x), x), {F.silu: 1}),
        (lambda x, y, g: torch.add(torch.mul(x, g), y), {torch.addcmul: 1}),
        (lambda x, y, g: torch.add(y, torch.mul(x, g)), {torch.addcmul: 1}),
        (lambda x, y, g: torch.add(torch.mul(x, g), torch.mul(y, g)), {torch.addcmul: 1, torch.mul: 1}),
        (lambda x, y: torch.add(torch.mul(x, torch.sigmoid(x)), y), {F.silu: 1, torch.add: 1}),
        (lambda x, y: torch.mul(y, torch.sigmoid(x)), {torch.mul: 1, torch.sigmoid: 1}),
        (block, {torch.addcmul: 1, F.silu: 1}),
        (read_twice, {torch.mul: 1, torch.add: 1}),
        (gate_read_by_another, {torch.sigmoid: 1, torch.addcmul: 1}),
        (product_asked_for, {torch.mul: 1, torch.add: 1}),
    ],
)
def test_what_is_fused_and_what_is_not(chain: Chain, expected: dict[object, int]) -> None:
    assert calls(fused(chain)) == expected
    tensors = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    given_to = tensors[: len(signature(chain).parameters)]
    for found, wanted in zip(fused(chain)(*given_to), chain(*given_to), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    gate=st.sampled_from([(2, 4, 1, 1), (1, 4, 1, 1), (2, 4, 3, 5), ()]),
    is_channels_last=st.booleans(),
)
def test_a_block_keeps_its_numbers_shape_and_layout(
    seed: int, dtype: torch.dtype, gate: tuple[int, ...], is_channels_last: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y, g = (torch.randn(shape, generator=generator) for shape in ((2, 4, 3, 5), (2, 4, 3, 5), gate))
    layout = torch.channels_last if is_channels_last else torch.contiguous_format
    x, y = (tensor.contiguous(memory_format=layout) for tensor in (x, y))
    found = fused(block)(x.to(dtype), y.to(dtype), g.to(dtype))
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    wanted = block(*(tensor.to(dtype).double() for tensor in (x, y, g)))
    # float16: the sum and the answer are rounded, where one call at a time rounds the product and the gate as well.
    tolerance = {torch.float32: 1e-6, torch.float16: 2e-3}[dtype]
    assert (found.double() - wanted).abs().max() <= tolerance * wanted.abs().max()
