"""Each rule against the block that it replaces: any width, size and stride, border pixels included, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from parnet_deploy.fusion.rules import RULES
from parnet_deploy.models import blocks
from parnet_deploy.models.blocks import Activation, shuffle_channels, unshuffle_channels
from parnet_deploy.models.parnet import FAMILIES, ParNet
from parnet_deploy.models.variants import VARIANTS

AssertSame = Callable[[Tensor, Tensor], None]
some_examples = settings(max_examples=40)

seeds = st.integers(0, 2**31)
activations = st.sampled_from(["silu", "relu"])
sides = st.integers(1, 9)
strides = st.sampled_from([1, 2])


def randomized(block: nn.Module, seed: int) -> nn.Module:
    """Draw every weight and statistic of a block; scales of either sign, some zero, variances down to eps."""
    generator = torch.Generator().manual_seed(seed)
    block = block.double().eval().requires_grad_(False)
    for name, tensor in block.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(10 ** (torch.rand(tensor.shape, generator=generator) * 5 - 5))
        elif name.endswith("num_batches_tracked"):
            continue
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.weight.mul_((module.running_var + module.eps).sqrt())
            module.weight[torch.rand(module.num_features, generator=generator) < 0.1] = 0
    return block


def image(channels: int, height: int, width: int, seed: int) -> Tensor:
    """A batch of two inputs."""
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)


def fused_by_rule(block: nn.Module, *, unshuffled: bool) -> nn.Module:
    """Apply the rule of the table."""
    made = RULES[type(block)](block, unshuffled).eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    return made


@some_examples
@given(seed=seeds, chans=st.integers(1, 6), height=sides, width=sides, activation=activations)
def test_repvgg_sse(
    seed: int, chans: int, height: int, width: int, activation: Activation, assert_same: AssertSame
) -> None:
    block = randomized(blocks.RepVGGSSEBlock(chans, activation), seed)
    x = image(chans, height, width, seed)
    assert_same(block(x), fused_by_rule(block, unshuffled=False)(x).detach())


@some_examples
@given(
    seed=seeds,
    halves=st.integers(1, 3),
    out=st.integers(1, 5),
    height=sides,
    width=sides,
    stride=strides,
    unshuffled=st.booleans(),
    activation=activations,
)
def test_downsampling(
    seed: int,
    halves: int,
    out: int,
    height: int,
    width: int,
    stride: int,
    unshuffled: bool,
    activation: Activation,
    assert_same: AssertSame,
) -> None:
    block = randomized(blocks.DownsamplingBlock(2 * halves, out, activation, stride), seed)
    x = image(2 * halves, stride * height, stride * width, seed)
    made = fused_by_rule(block, unshuffled=unshuffled)
    assert_same(block(shuffle_channels(x) if unshuffled else x), made(x).detach())


@some_examples
@given(
    seed=seeds,
    quarters=st.integers(1, 2),
    half_out=st.integers(1, 4),
    height=sides,
    width=sides,
    stride=strides,
    unshuffled=st.booleans(),
    activation=activations,
)
def test_fusion(
    seed: int,
    quarters: int,
    half_out: int,
    height: int,
    width: int,
    stride: int,
    unshuffled: bool,
    activation: Activation,
    assert_same: AssertSame,
) -> None:
    """The fused block leaves its output unshuffled; `unshuffled` says that its finer input comes so, too."""
    block = randomized(blocks.FusionBlock(4 * quarters, 2 * half_out, activation, stride), seed)
    stream = image(4 * quarters, stride * height, stride * width, seed)
    finer = image(4 * quarters, stride * height, stride * width, seed + 1)
    made = fused_by_rule(block, unshuffled=unshuffled)
    expected = unshuffle_channels(block(stream, shuffle_channels(finer) if unshuffled else finer))
    assert_same(expected, made(stream, finer).detach())


@some_examples
@given(
    seed=seeds,
    halves=st.integers(1, 3),
    out=st.integers(1, 5),
    height=sides,
    width=sides,
    unshuffled=st.booleans(),
    merged=st.booleans(),
)
def test_pointwise(
    seed: int,
    halves: int,
    out: int,
    height: int,
    width: int,
    unshuffled: bool,
    merged: bool,
    assert_same: AssertSame,
) -> None:
    block = randomized(blocks.PointwiseBlock(2 * halves, out, "silu"), seed)
    assert isinstance(block, blocks.PointwiseBlock)
    x = image(2 * halves, height, width, seed)
    expected = block(shuffle_channels(x) if unshuffled else x)
    if merged:
        block.reparameterize()
    assert_same(expected, fused_by_rule(block, unshuffled=unshuffled)(x).detach())


@some_examples
@given(seed=seeds, stride=strides, groups=st.sampled_from([1, 2]), half=st.integers(1, 3), side=sides)
def test_merged_branches(seed: int, stride: int, groups: int, half: int, side: int, assert_same: AssertSame) -> None:
    branches = randomized(blocks.ConvBranches(groups * half, groups * 2, stride, groups), seed)
    assert isinstance(branches, blocks.ConvBranches)
    x = image(groups * half, stride * side, stride * (side + 1), seed)
    expected = branches(x)
    branches.reparameterize()
    assert branches.dense is branches.pointwise is None
    assert_same(expected, branches(x))


def test_every_training_block_has_a_rule() -> None:
    made = {type(FAMILIES["training"].repvgg_sse(4, "silu")), type(FAMILIES["training"].fusion(4, 4, "silu", 1, True))}
    for variant in VARIANTS.values():
        with torch.device("meta"):
            model = ParNet(variant.network)
        for name, child in model.named_children():
            if name != "head":
                made |= {type(block) for block in (child if isinstance(child, nn.Sequential) else [child])}
    assert made == RULES.keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rules_keep_device_and_dtype(dtype: torch.dtype, device: str) -> None:
    for block in (
        blocks.RepVGGSSEBlock(4, "silu"),
        blocks.DownsamplingBlock(4, 4, "silu"),
        blocks.FusionBlock(4, 4, "silu", 2),
        blocks.PointwiseBlock(4, 4, "silu"),
    ):
        made = fused_by_rule(block.to(device=device, dtype=dtype), unshuffled=True)
        assert {(p.device.type, p.dtype) for p in made.parameters()} == {(device, dtype)}
