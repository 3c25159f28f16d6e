"""Random weights with random batch norm statistics: networks to try the tool on and to benchmark.

Fresh batch norms (mean 0, variance 1, scale 1, shift 0) would hide most fusion errors, so none is left at its default.
"""

from __future__ import annotations

import torch
from torch import nn

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.models.parnet import ParNet


def create_random_network(cfg: NetworkConfig, seed: int) -> ParNet:
    """Return a training-form network in eval mode; the same seed gives the same weights.

    Batch norm scales are drawn around 1, which makes up for what the activations lose: smaller ones would let the
    image's part of the signal die out behind the shifts, and all images would get nearly the same logits.
    """
    generator = torch.Generator().manual_seed(seed)
    model = ParNet(cfg)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.6, 1.4, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)
            nn.init.normal_(module.running_mean, 0.0, 0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return model.requires_grad_(False).eval()
