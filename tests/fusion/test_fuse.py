"""What `fuse` takes and refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.errors import FusionError
from parnet_deploy.fusion import fuse
from parnet_deploy.models.blocks import FusionBlock, RepVGGSSEBlock
from parnet_deploy.models.fused import FusedFusionBlock
from parnet_deploy.models.parnet import ParNet

SMALL = NetworkConfig(
    stem=(4, 6), planes=(6, 8, 12), num_blocks=(1, 1, 2), last_planes=10, num_classes=3, drop_rate=0.3
)


@pytest.fixture
def network(create_rough_network: Callable[..., ParNet]) -> ParNet:
    """A small network that the test may change."""
    return create_rough_network(SMALL, seed=1)


def test_fusing_twice_returns_the_same_object(network: ParNet) -> None:
    fused = fuse(network)
    assert fused is not network
    assert fuse(fused) is fused


def test_the_fused_network_is_ready_to_run(network: ParNet) -> None:
    fused = fuse(network)
    assert (fused.form, fused.cfg, fused.num_classes) == ("fused", SMALL, 3)
    assert not any(module.training for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert not own & {parameter.data_ptr() for parameter in fused.parameters()}
    assert fused.state_dict().keys() == ParNet(SMALL, "fused").state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_device_and_dtype_are_kept(network: ParNet, dtype: torch.dtype, device: str) -> None:
    fused = fuse(network.to(device=device, dtype=dtype))
    assert {(p.device.type, p.dtype) for p in fused.parameters()} == {(device, dtype)}


def test_a_new_classifier_is_carried_over(network: ParNet) -> None:
    network.reset_classifier(5)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        fused = fuse(network)
        torch.testing.assert_close(network(images), fused(images), rtol=1e-4, atol=1e-4)
        assert fused.num_classes == 5
        network.reset_classifier(0)
        headless = fuse(network)
        assert headless(images).shape == (1, 10)
        assert headless.num_classes == 0


@pytest.mark.parametrize("place", ["", "stream2.0.skip", "fusion2.norm_finer", "head.drop"])
def test_training_mode_is_refused_wherever_it_is(network: ParNet, place: str) -> None:
    network.get_submodule(place).train()
    with pytest.raises(FusionError, match=r"(?s)training mode.*call model.eval\(\) first"):
        fuse(network)


class ScaledBlock(RepVGGSSEBlock):
    """A subclass that computes something else, which no rule may take for its base."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block and double it."""
        return 2 * super().forward(x)


class ScaledFusion(FusionBlock):
    """The same for a block that is no part of a sequence."""


def test_an_unknown_block_is_refused_with_its_place(network: ParNet) -> None:
    network.get_submodule("stream3")[1] = ScaledBlock(12, "silu").eval()
    with pytest.raises(FusionError, match="no rule for a block of type ScaledBlock") as caught:
        fuse(network)
    assert caught.value.where == "stream3.1"
    assert caught.value.remedy == ("rules exist for DownsamplingBlock, FusionBlock, PointwiseBlock, RepVGGSSEBlock")


def test_an_unknown_single_block_is_refused_with_its_place(network: ParNet) -> None:
    network.fusion2 = ScaledFusion(8, 12, "silu", 2).eval()
    with pytest.raises(FusionError, match="ScaledFusion") as caught:
        fuse(network)
    assert caught.value.where == "fusion2"


def test_an_unknown_activation_is_refused(network: ParNet) -> None:
    network.get_submodule("stream1.0").act = nn.GELU().eval()
    with pytest.raises(FusionError, match="activation GELU"):
        fuse(network)


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 3), nn.Sequential(), FusedFusionBlock(4, 4, "relu", 1, split=True)])
def test_what_is_no_parnet_is_refused(model: nn.Module) -> None:
    with pytest.raises(FusionError, match=f"{type(model).__name__} is no ParNet"):
        fuse(model.eval())
