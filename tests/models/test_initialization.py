"""Random networks: repeatable, in eval mode, no batch norm at its default, logits that fit every float type."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from parnet_deploy.models.initialization import create_random_network
from parnet_deploy.models.variants import VARIANTS


def test_the_seed_decides_every_weight() -> None:
    cfg = VARIANTS["parnet_pico"].network
    first, same, other = (create_random_network(cfg, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(value, same[key]) for key, value in first.items())
    drawn = [key for key in first if "num_batches_tracked" not in key]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


def test_no_batch_norm_is_left_where_it_would_hide_an_error() -> None:
    model = create_random_network(VARIANTS["parnet_nano"].network, 0)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, default in (
                (module.weight, 1),
                (module.bias, 0),
                (module.running_mean, 0),
                (module.running_var, 1),
            ):
                assert not (tensor == default).any()


@pytest.mark.parametrize("name", ["parnet_pico", "parnet_s", "parnet_cifar_m", "parnet_m_onestream"])
def test_logits_neither_vanish_nor_explode(name: str) -> None:
    cfg = VARIANTS[name].network
    images = torch.randn(2, 3, 2 * cfg.reduction, 2 * cfg.reduction, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        spread = float(create_random_network(cfg, 0)(images).std())
    assert 0.5 < spread < 100
