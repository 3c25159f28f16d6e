"""The difference itself: what it measures, which tensor it names, and when it fails."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.errors import CheckFailedError, FusionError, NetworkError
from parnet_deploy.fusion import Difference, FusionDifference, fuse, fusion_difference, measure_difference
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.models.variants import VARIANTS

SMALL = NetworkConfig(stem=(4, 8), planes=(8, 8, 12), num_blocks=(1, 1, 1), last_planes=10, num_classes=3)
NAMES = ["stem", "level2", "level3", "stream1", "stream2", "stream3", "fusion1", "fusion2", "fusion3", "last", "logits"]


@pytest.fixture(scope="module")
def network(create_rough_network: Callable[..., ParNet]) -> ParNet:
    """A small network that no test changes."""
    return create_rough_network(SMALL, seed=3)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Two random images."""
    return torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_every_shared_tensor_is_compared_in_order(network: ParNet) -> None:
    found = fusion_difference(network, size=(32, 64))
    for difference in (found.float64, found.float32):
        assert list(difference.per_tensor) == NAMES
        assert difference.relative == max(difference.per_tensor.values()) > 0
    assert found.float64.relative <= 1e-13
    assert 1e-9 < found.float32.relative <= 1e-5
    assert found.float64.max_abs < found.float32.max_abs
    found.check()


def test_the_numbers_are_max_abs_over_max_abs(network: ParNet, images: torch.Tensor) -> None:
    """Shift the last bias by a known amount: only the logits depart, by exactly that."""
    double = copy.deepcopy(network).double()
    fused = fuse(double)
    fused.head.fc.bias += torch.tensor([0.0, -0.5, 0.25], dtype=torch.float64)
    scale = float(double(images).abs().max())
    difference = measure_difference(double, fused, images, torch.float64)
    assert difference.max_abs == pytest.approx(0.5, rel=1e-12)
    assert difference.relative == difference.per_tensor["logits"] == pytest.approx(0.5 / scale, rel=1e-12)
    assert max(value for name, value in difference.per_tensor.items() if name != "logits") <= 1e-13


def test_other_dtypes_are_cast_and_nothing_is_changed(network: ParNet, images: torch.Tensor) -> None:
    fused = fuse(network)
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in (network, fused)]
    exact = measure_difference(network, fused, images, torch.float64)
    # The fused weights were rounded to float32: far from exact, far from wrong.
    assert 1e-9 < exact.relative < 1e-5
    fusion_difference(network, size=(32, 32))
    for model, weights in zip((network, fused), before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_seed_and_the_batch_decide_the_images(network: ParNet) -> None:
    def measured(**options: int) -> float:
        return fusion_difference(network, size=(32, 32), **options).float32.max_abs

    assert measured() == measured(seed=0, batch=2)
    assert len({measured(seed=seed) for seed in range(4)}) > 1


def test_the_size_is_the_variants_own(create_rough_network: Callable[..., ParNet]) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(ParNet):
        def forward_boundaries(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(tuple(x.shape))
            return super().forward_boundaries(x)

    for cfg in (VARIANTS["parnet_nano"].network, VARIANTS["parnet_pico"].network, SMALL):
        model = Watched(cfg).eval()
        model.load_state_dict(create_rough_network(cfg).state_dict())
        fusion_difference(model, batch=1).check()
    # SMALL is no registered variant: seven times its reduction.
    assert seen == [(1, 3, 32, 32)] * 2 + [(1, 3, 224, 224)] * 4


def test_a_fused_network_differs_from_itself_by_nothing(network: ParNet) -> None:
    found = fusion_difference(fuse(network), size=(32, 32))
    assert found.float64.max_abs == found.float32.max_abs == found.float64.relative == 0
    found.check()


def test_dead_tensors_count_as_equal_and_any_departure_from_them_as_infinite(
    network: ParNet, images: torch.Tensor
) -> None:
    dead = copy.deepcopy(network).double()
    dead.head.fc.weight.zero_()
    dead.head.fc.bias.zero_()
    fused = fuse(dead)
    assert measure_difference(dead, fused, images, torch.float64).per_tensor["logits"] == 0
    fused.head.fc.bias[1] = 1e-300
    assert measure_difference(dead, fused, images, torch.float64).per_tensor["logits"] == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_never_pass(network: ParNet, value: float) -> None:
    broken = copy.deepcopy(network)
    broken.get_submodule("stream2.0").gate.weight[0] = value
    found = fusion_difference(broken, size=(32, 32))
    assert found.float64.relative == found.float32.relative == found.float64.max_abs == math.inf
    assert found.float64.first_beyond(1e-12) == "stream2"
    with pytest.raises(CheckFailedError, match="stream2 differs by inf relative in float64"):
        found.check()


def difference(**per_tensor: float) -> Difference:
    """A difference with known numbers."""
    return Difference(max_abs=1.0, relative=max(per_tensor.values()), per_tensor=per_tensor)


def test_check_names_the_first_tensor_and_how_far() -> None:
    fine = difference(stem=1e-12, fusion2=0.0, logits=9e-13)
    coarse = difference(stem=1e-5, fusion2=3e-6, logits=9e-6)
    FusionDifference(float64=fine, float32=coarse).check()
    with pytest.raises(
        CheckFailedError, match=r"fusion2 differs by 1\.1e-12 relative in float64, beyond 1e-12"
    ) as caught:
        FusionDifference(float64=difference(stem=1e-12, fusion2=1.1e-12, logits=0.5), float32=coarse).check()
    assert caught.value.exit_code == 1
    assert caught.value.remedy is not None
    with pytest.raises(CheckFailedError, match=r"logits differs by 1\.1e-05 relative in float32, beyond 1e-05"):
        FusionDifference(float64=fine, float32=difference(stem=1e-5, logits=1.1e-5)).check()


def test_what_cannot_be_fused_or_run_is_refused(network: ParNet) -> None:
    with pytest.raises(NetworkError, match="33x32 pixels"):
        fusion_difference(network, size=(33, 32))
    with pytest.raises(FusionError, match="training mode"):
        fusion_difference(copy.deepcopy(network).train(), size=(32, 32))
