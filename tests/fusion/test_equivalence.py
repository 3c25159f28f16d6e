"""The regression test for fusion: every registered variant computes the same function before and after.

Weights and batch norm statistics are random (scales of either sign, some zero, variances down to eps), and every tensor
that both forms have is compared, in float64 and in float32. To register a variant is to cover it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.utils import reparameterize_model
from torch import Tensor, nn

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.fusion import fuse
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.models.variants import VARIANTS

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
# The paper's activation on square colour images; the released code's on grey ones that are three times as wide as high.
KINDS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "silu": ({"activation": "silu"}, (2, 2)),
    "relu-grey-wide": ({"activation": "relu", "in_chans": 1}, (1, 3)),
}


def images_for(cfg: NetworkConfig, height: int, width: int) -> Tensor:
    """A batch of two random images of `height` x `width` times the smallest size."""
    shape = (2, cfg.in_chans, height * cfg.reduction, width * cfg.reduction)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def tensors_of(model: ParNet, images: Tensor) -> dict[str, Tensor]:
    """Boundary tensors and logits, as the training form orders their channels.

    The fused form leaves fusion2 and later unshuffled: channel h * C / 2 + i there is channel 2i + h here.
    """
    images = images.to(next(model.parameters()).dtype)
    with torch.no_grad():
        tensors = model.forward_boundaries(images)
        tensors["logits"] = model.forward_head(tensors["last"])
    if model.form == "fused":
        for i in range(2, model.cfg.num_streams + 1):
            left = tensors[f"fusion{i}"]
            half = left.shape[1] // 2
            order = [h * half + k for k in range(half) for h in range(2)]
            tensors[f"fusion{i}"] = left[:, order]
    return {name: tensor for name, tensor in tensors.items() if "/" not in name}


def assert_equivalent(training: ParNet, fused: ParNet, images: Tensor) -> None:
    """Hold max|a - b| / max|a| of every tensor to the tolerance of the weights' type."""
    dtype = next(training.parameters()).dtype
    assert next(fused.parameters()).dtype == dtype
    wanted, found = tensors_of(training, images), tensors_of(fused, images)
    assert list(wanted) == list(found)
    assert len(wanted) == (3 * training.cfg.num_streams + 2 if training.cfg.num_streams > 1 else 4)
    assert wanted["logits"].shape == (2, training.cfg.num_classes)
    for name, tensor in wanted.items():
        difference = float((tensor - found[name]).abs().max() / tensor.abs().max())
        assert difference <= TOLERANCES[dtype], f"{name}: {difference:.1e} in {dtype}"


@dataclass(frozen=True)
class Pair:
    """A network in both precisions, each with its fused form, its weights before fusing, and images for it."""

    forms: dict[torch.dtype, tuple[ParNet, ParNet]]
    weights_before: dict[str, Tensor]
    images: Tensor


@pytest.fixture(scope="module", params=[(name, kind) for name in VARIANTS for kind in KINDS], ids="-".join)
def pair(request: pytest.FixtureRequest, create_rough_network: Callable[..., ParNet]) -> Pair:
    """One variant at a time, since the large ones are."""
    name, kind = request.param
    changes, size = KINDS[kind]
    single = create_rough_network(VARIANTS[name].network.model_copy(update=changes), seed=len(name))
    before = {key: value.clone() for key, value in single.state_dict().items()}
    double = copy.deepcopy(single).double()
    forms = {torch.float32: (single, fuse(single)), torch.float64: (double, fuse(double))}
    return Pair(forms, before, images_for(single.cfg, *size))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_variant_is_the_same_function_after_fusion(pair: Pair, dtype: torch.dtype) -> None:
    training, fused = pair.forms[dtype]
    assert (training.form, fused.form) == ("training", "fused")
    assert_equivalent(training, fused, pair.images)


def test_no_batch_norm_is_left_and_the_input_is_untouched(pair: Pair) -> None:
    training, fused = pair.forms[torch.float32]
    kinds = {type(module).__name__ for module in fused.modules()}
    assert not {kind for kind in kinds if "Norm" in kind or kind in ("Identity", "AvgPool2d", "ConvBN")}
    assert not any("running" in name for name in fused.state_dict())
    after = training.state_dict()
    assert list(after) == list(pair.weights_before)
    for name, value in pair.weights_before.items():
        assert torch.equal(value.reshape(-1).view(torch.uint8), after[name].reshape(-1).view(torch.uint8)), name


@pytest.mark.parametrize("name", ["parnet_pico", "parnet_nano", "parnet_s"])
def test_merged_network_fuses_too(name: str, create_rough_network: Callable[..., ParNet]) -> None:
    """timm's reparameterised form has merged convolutions but its other batch norms still."""
    training = create_rough_network(VARIANTS[name].network, seed=2).double()
    merged = reparameterize_model(training)
    fused = fuse(merged)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert_equivalent(training, fused, images_for(training.cfg, 2, 3))
    assert_equivalent(merged, fused, images_for(training.cfg, 2, 3))


@st.composite
def networks(draw: st.DrawFn) -> NetworkConfig:
    """Any small network that the configuration allows: 1 to 4 streams, either stem, either last block."""
    streams = draw(st.integers(1, 4))
    first = draw(st.integers(1, 3)) * (2 if streams > 2 else 1)
    planes = (first, *(4 * draw(st.integers(1, 2)) for _ in range(streams - 1)))
    return NetworkConfig(
        stem=(*draw(st.lists(st.sampled_from([3, first]), max_size=2)), first),
        stem_stride=draw(st.sampled_from([1, 2])),
        planes=planes,
        num_blocks=tuple(draw(st.integers(1, 2)) for _ in planes),
        last_planes=draw(st.integers(1, 5)),
        last=draw(st.sampled_from(["downsampling", "conv1x1"])),
        activation=draw(st.sampled_from(["silu", "relu"])),
        in_chans=draw(st.integers(1, 4)),
        num_classes=draw(st.integers(1, 4)),
    )


@settings(max_examples=30)
@given(cfg=networks(), seed=st.integers(0, 2**31), height=st.integers(1, 3), width=st.integers(1, 3))
def test_any_network_is_the_same_function_after_fusion(
    cfg: NetworkConfig, seed: int, height: int, width: int, create_rough_network: Callable[..., ParNet]
) -> None:
    training = create_rough_network(cfg, seed).double()
    images = images_for(cfg, height, width)
    wanted, found = tensors_of(training, images), tensors_of(fuse(training), images)
    for name, tensor in wanted.items():
        # Narrow ReLU nets can be dead: then both are zero.
        assert float((tensor - found[name]).abs().max()) <= 1e-12 * max(1.0, float(tensor.abs().max())), name
