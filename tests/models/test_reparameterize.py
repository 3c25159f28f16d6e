"""timm's `reparameterize_model`: merged convolutions compute what the branches did."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.utils import reparameterize_model

from parnet_deploy.models.blocks import ConvBN, ConvBranches, PointwiseBlock
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.models.reparameterization import batchnorm_affine
from parnet_deploy.models.variants import VARIANTS


@pytest.mark.parametrize("name", ["parnet_pico", "parnet_nano", "parnet_cifar_s", "parnet_s", "parnet_m_fourstream"])
def test_merged_network_equals_the_branches(name: str, create_rough_network: Callable[..., ParNet]) -> None:
    cfg = VARIANTS[name].network
    model = create_rough_network(cfg, seed=3).double()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = reparameterize_model(model)
    images = torch.randn(
        2, 3, 2 * cfg.reduction, cfg.reduction, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    with torch.no_grad():
        expected, found = model.forward_boundaries(images), merged.forward_boundaries(images)
        expected["logits"], found["logits"] = model(images), merged(images)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert (value - found[key]).abs().max() <= 1e-12 * value.abs().max(), key
    assert not any(isinstance(module, ConvBN) for module in merged.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("block", [ConvBranches(4, 6, stride=2, groups=2), PointwiseBlock(4, 6, "relu")])
def test_reparameterizing_twice_does_nothing(block: ConvBranches | PointwiseBlock) -> None:
    block = block.eval().requires_grad_(False)
    kernel = block.merged_kernel()
    block.reparameterize()
    once = list(block.modules())
    block.reparameterize()
    assert list(block.modules()) == once
    for before, after in zip(kernel, block.merged_kernel(), strict=True):
        torch.testing.assert_close(before, after, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("missing", [("running_mean",), ("running_var",), ("running_mean", "running_var")])
def test_batchnorm_without_statistics_has_no_affine_form(missing: tuple[str, ...]) -> None:
    norm = torch.nn.BatchNorm2d(2)
    for name in missing:
        setattr(norm, name, None)
    with pytest.raises(TypeError, match="running statistics"):
        batchnorm_affine(norm)
