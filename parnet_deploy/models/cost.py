"""Count parameters and floating point operations without allocating a weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from timm.utils import reparameterize_model
from torch.utils.flop_counter import FlopCounterMode

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.models.parnet import ParNet


@dataclass(frozen=True)
class Cost:
    """Parameters in the training form, with the convolutions merged (what the paper counts) and fully fused.

    GFLOP counts two operations per multiply-accumulate of convolutions and the linear layer, for one image.
    """

    parameters_training: int
    parameters_reparameterized: int
    parameters_fused: int
    gflop_training: float
    gflop_fused: float


def measure_cost(network: NetworkConfig, input_size: tuple[int, int, int]) -> Cost:
    """Count on the meta device, where tensors have shapes but no data."""
    with torch.device("meta"):
        training, fused = ParNet(network).eval(), ParNet(network, form="fused").eval()
        merged = reparameterize_model(training)
        image = torch.empty(1, *input_size)
        return Cost(
            *(sum(p.numel() for p in model.parameters()) for model in (training, merged, fused)),
            *(_gflop(model, image) for model in (training, fused)),
        )


def _gflop(model: ParNet, image: torch.Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return int(counter.get_total_flops()) / 1e9
