"""The network that a user would write computes what ours does, fused in its own way and not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks.straightforward import StraightforwardParNet
from parnet_deploy.models.variants import VARIANTS

if TYPE_CHECKING:
    from parnet_deploy.models.parnet import ParNet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_it_is_our_network(create_rough_network: Callable[..., ParNet], size: tuple[int, int], is_fused: bool) -> None:
    cfg = VARIANTS["parnet_pico"].network
    ours = create_rough_network(cfg).double()
    theirs = StraightforwardParNet(
        cfg.planes,  # type: ignore[arg-type]
        cfg.num_blocks,  # type: ignore[arg-type]
        cfg.last_planes,
        stem=cfg.stem[0],
    ).double()
    theirs.load(ours.state_dict())
    theirs.eval()
    if is_fused:
        theirs.fuse()
        convolutions = [module for module in theirs.modules() if isinstance(module, torch.nn.Conv2d)]
        assert sum(module.kernel_size == (1, 1) for module in convolutions) * 2 == len(convolutions)
    images = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = ours(images), theirs(images)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_it_has_the_paper_s_parameters() -> None:
    """Table A1's ParNet-L, merged as the paper counts it: 54.9 million."""
    cfg = VARIANTS["parnet_l"].network
    with torch.device("meta"):
        network = StraightforwardParNet(cfg.planes, cfg.num_blocks, cfg.last_planes)  # type: ignore[arg-type]
    assert sum(parameter.numel() for parameter in network.parameters()) == 60_180_008
