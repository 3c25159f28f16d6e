"""The network's own interface: sizes, boundary tensors, channel orders and the classifier."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.errors import NetworkError
from parnet_deploy.models.blocks import interleave_channels, shuffle_channels, unshuffle_channels
from parnet_deploy.models.parnet import Form, ParNet
from parnet_deploy.models.variants import VARIANTS
from parnet_deploy.planning.partition import boundary_names

FORMS: tuple[Form, ...] = ("training", "fused")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("height", "width", "nearest"), [(33, 32, "32x32"), (64, 48, "64x64"), (8, 64, "32x64"), (32, 100, "32x96")]
)
def test_sizes_that_do_not_halve_are_refused_with_the_nearest(
    form: Form, height: int, width: int, nearest: str
) -> None:
    model = ParNet(VARIANTS["parnet_pico"].network, form).eval()
    with pytest.raises(NetworkError, match=f"{height}x{width} pixels.*multiples of 32") as caught:
        model(torch.zeros(1, 3, height, width))
    assert caught.value.remedy == f"resize to {nearest}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 4, 32, 32), (3, 32, 32), (1, 1, 3, 32, 32)])
def test_inputs_that_are_no_batch_of_images_are_refused(form: Form, shape: tuple[int, ...]) -> None:
    model = ParNet(VARIANTS["parnet_pico"].network, form).eval()
    with pytest.raises(NetworkError, match=r"must be \[N, 3, H, W\]"):
        model(torch.zeros(shape))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", VARIANTS)
def test_boundary_tensors_are_those_that_a_partition_may_name(name: str, form: Form) -> None:
    cfg = VARIANTS[name].network
    with torch.device("meta"):
        model = ParNet(cfg, form).eval()
        tensors = model.forward_boundaries(torch.empty(2, 3, 2 * cfg.reduction, cfg.reduction))
    assert tensors.keys() == {*boundary_names(cfg.num_streams, with_terms=form == "fused"), "last"}
    assert tensors["last"].shape == (2, cfg.last_planes, 2, 1)
    for i, width in enumerate(cfg.planes, start=1):
        assert tensors[f"stream{i}"].shape[:2] == (2, width)
        assert tensors[f"stream{i}"].shape[2] == 2 * tensors[f"stream{i}"].shape[3]


@given(half=st.integers(1, 9), height=st.integers(1, 3), width=st.integers(1, 3), batch=st.integers(1, 2))
def test_channel_orders_follow_their_index_formulas(half: int, height: int, width: int, batch: int) -> None:
    x = torch.arange(batch * 2 * half * height * width).reshape(batch, 2 * half, height, width)
    a, b = x[:, :half], x[:, half:]
    shuffled, interleaved = shuffle_channels(x), interleave_channels(a, b)
    assert shuffled.shape == interleaved.shape == x.shape
    for i in range(half):
        for h in range(2):
            assert torch.equal(shuffled[:, 2 * i + h], x[:, h * half + i])
            assert torch.equal(interleaved[:, 2 * i + h], (a, b)[h][:, i])
    assert torch.equal(unshuffle_channels(shuffled), x)
    in_memory_order = x.to(memory_format=torch.channels_last)
    assert torch.equal(shuffle_channels(in_memory_order), shuffled)


def test_reset_classifier_keeps_mode_place_and_kind(create_rough_network: Callable[..., ParNet]) -> None:
    cfg = VARIANTS["parnet_nano"].network
    assert cfg.drop_rate > 0
    model = create_rough_network(cfg).double()
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = model.forward_features(images)
    model.reset_classifier(4)
    assert model.cfg.num_classes == model.num_classes == model.get_classifier().out_features == 4
    assert model.get_classifier().weight.dtype == torch.float64
    assert not any(module.training for module in model.modules())
    assert torch.equal(model.forward_features(images), features)
    assert model(images).shape == (2, 4)
    assert torch.equal(model(images), model(images))
    model.reset_classifier(0)
    assert torch.equal(model(images), features.mean((2, 3)))
    model.train().reset_classifier(2)
    assert model.head.drop.training
    with pytest.raises(NetworkError, match="average only"):
        model.reset_classifier(2, "max")


def test_pre_logits_are_the_pooled_features() -> None:
    model = ParNet(VARIANTS["parnet_nano"].network).eval()
    features = torch.randn(2, 128, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.forward_head(features, pre_logits=True), features.mean((2, 3)))
    assert torch.equal(model.forward_head(features), model.get_classifier()(features.mean((2, 3))))
