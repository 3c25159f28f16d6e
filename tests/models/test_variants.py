"""Every registered variant against the golden table, and timm's own interface to it."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import pytest
import timm
import torch
from timm.utils import reparameterize_model
from torch import fx

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.errors import NetworkError
from parnet_deploy.models.cost import Cost, measure_cost
from parnet_deploy.models.parnet import Form, ParNet
from parnet_deploy.models.variants import VARIANTS, architecture_of, get_variant
from tests.golden import DEPTH, GOLDEN

# Channels and reduction of the feature pyramid: one level per stream, and the last block's.
PYRAMIDS = {
    "parnet_s": ([96, 192, 384, 1280], [4, 8, 16, 32]),
    "parnet_m": ([128, 256, 512, 2048], [4, 8, 16, 32]),
    "parnet_l": ([160, 320, 640, 2560], [4, 8, 16, 32]),
    "parnet_xl": ([200, 400, 800, 3200], [4, 8, 16, 32]),
    "parnet_m_onestream": ([576, 2048], [16, 32]),
    "parnet_m_twostream": ([264, 528, 2048], [8, 16, 32]),
    "parnet_m_fourstream": ([64, 128, 256, 512, 2048], [2, 4, 8, 16, 32]),
    "parnet_cifar_s": ([32, 64, 128, 384], [1, 2, 4, 4]),
    "parnet_cifar_m": ([112, 224, 448, 640], [1, 2, 4, 4]),
    "parnet_cifar_l": ([168, 336, 672, 1152], [1, 2, 4, 4]),
    "parnet_nano": ([16, 32, 64, 128], [1, 2, 4, 4]),
    "parnet_pico": ([16, 32, 64, 128], [4, 8, 16, 32]),
}


@functools.cache
def cost_of(name: str) -> Cost:
    """Count a variant once for all tests."""
    return measure_cost(VARIANTS[name].network, VARIANTS[name].preprocessing.input_size)


def count_parameters(model: torch.nn.Module) -> int:
    """Count by the tensors themselves."""
    return sum(p.numel() for p in model.parameters())


def test_golden_table_is_the_registry_and_timm_lists_it() -> None:
    assert GOLDEN.keys() == VARIANTS.keys() == PYRAMIDS.keys()
    assert timm.list_models("parnet*") == sorted(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_through_timm(name: str) -> None:
    with torch.device("meta"):
        training = timm.create_model(name)
        merged = reparameterize_model(training)
        fused = ParNet(VARIANTS[name].network, "fused")
    golden = GOLDEN[name]
    assert count_parameters(training) == golden.parameters_training
    assert count_parameters(merged) == golden.parameters_reparameterized
    assert count_parameters(fused) == golden.parameters_fused


@pytest.mark.parametrize("name", VARIANTS)
def test_cost_is_golden(name: str) -> None:
    cost, golden = cost_of(name), GOLDEN[name]
    assert cost.parameters_training == golden.parameters_training
    assert cost.parameters_reparameterized == golden.parameters_reparameterized
    assert cost.parameters_fused == golden.parameters_fused
    assert cost.gflop_fused == pytest.approx(golden.gflop_fused, rel=1e-3)
    assert cost.gflop_fused < cost.gflop_training


@pytest.mark.parametrize("name", [name for name, golden in GOLDEN.items() if golden.paper_gflop])
def test_gflop_are_the_papers_and_the_authors(name: str) -> None:
    assert cost_of(name).gflop_fused == pytest.approx(GOLDEN[name].paper_gflop, rel=5e-3)
    assert cost_of(name).gflop_fused == pytest.approx(GOLDEN[name].authors_gflop, rel=5e-3)


@pytest.mark.parametrize("name", [name for name, golden in GOLDEN.items() if golden.paper_parameters_millions])
def test_parameters_are_the_papers(name: str) -> None:
    """The paper's counts are of the net with merged convolutions."""
    millions = cost_of(name).parameters_reparameterized / 1e6
    assert millions == pytest.approx(GOLDEN[name].paper_parameters_millions, rel=0.02)


@pytest.mark.parametrize("name", VARIANTS)
def test_fused_parameters_follow_from_the_merged_ones(name: str) -> None:
    """Count what folding the remaining batch norms adds: biases of gates and borders, and one denser gate."""
    cfg = VARIANTS[name].network
    widths = [width for width, depth in zip(cfg.planes, cfg.num_blocks, strict=True) for _ in range(depth)]
    if cfg.stem_stride == 1:
        widths += [out for before, out in zip(cfg.stem, cfg.stem[1:], strict=False) if before == out]
    added = sum(widths)  # scale, shift and gate bias for a batch norm's scale and shift
    for i in range(1, cfg.num_streams):
        width, out = cfg.planes[i], cfg.planes[min(i + 1, cfg.num_streams - 1)]
        added += 9 * out + out - 4 * width  # border and gate biases for two batch norms
        if i > 1:
            added += width * out // 2  # the gate over the shuffled input, from two groups to one
    assert GOLDEN[name].parameters_fused - GOLDEN[name].parameters_reparameterized == added


def longest_path(graph: fx.Graph) -> int:
    """Return the largest number of convolution and linear nodes on any path through a graph."""
    layers = {torch.ops.aten.conv2d.default, torch.ops.aten.linear.default}
    lengths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        lengths[node] = max((lengths[source] for source in node.all_input_nodes), default=0) + (node.target in layers)
    return max(lengths.values())


def longest_path_of(cfg: NetworkConfig, form: Form) -> int:
    with torch.device("meta"):
        model = ParNet(cfg, form).eval()
        image = torch.empty(1, cfg.in_chans, 2 * cfg.reduction, 2 * cfg.reduction)
        return longest_path(torch.export.export(model, (image,), strict=False).graph)


@pytest.mark.parametrize("form", ["training", "fused"])
@pytest.mark.parametrize("name", VARIANTS)
def test_longest_path_is_twelve_layers(name: str, form: Form) -> None:
    assert VARIANTS[name].network.depth == DEPTH
    assert longest_path_of(VARIANTS[name].network, form) == DEPTH


@pytest.mark.parametrize(
    ("stem", "planes", "num_blocks", "depth"),
    [
        ((8,), (8,), (3,), 6),
        ((8,), (8, 8), (1, 1), 6),
        ((8, 8), (8, 8), (7, 1), 13),
        ((8, 8), (8, 8, 8), (1, 6, 2), 13),
        ((8, 8), (8, 8, 8, 8), (5, 1, 1, 9), 17),
    ],
)
def test_depth_of_other_networks(
    stem: tuple[int, ...], planes: tuple[int, ...], num_blocks: tuple[int, ...], depth: int
) -> None:
    cfg = NetworkConfig(stem=stem, planes=planes, num_blocks=num_blocks, last_planes=8, num_classes=2)
    assert cfg.depth == longest_path_of(cfg, "training") == depth


@pytest.mark.parametrize("name", VARIANTS)
def test_feature_pyramid(name: str) -> None:
    channels, reductions = PYRAMIDS[name]
    step = VARIANTS[name].network.reduction
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True).eval()
        features = model(torch.empty(2, 3, 2 * step, 4 * step))
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == reductions
    expected = [(2, c, 2 * step // r, 4 * step // r) for c, r in zip(channels, reductions, strict=True)]
    assert [tuple(feature.shape) for feature in features] == expected


def test_chosen_features_are_the_networks_own_tensors() -> None:
    model = timm.create_model("parnet_nano").eval()
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tensors = model.forward_boundaries(image)
        last, features = model.forward_intermediates(image, indices=[0, -2])
        newest = model.forward_intermediates(image, indices=1, intermediates_only=True)
    assert torch.equal(features[0], tensors["stream1"])
    assert torch.equal(features[1], tensors["fusion3"])
    assert torch.equal(last, tensors["last"])
    assert [torch.equal(feature, last) for feature in newest] == [True]


@pytest.mark.parametrize("indices", [[4], [-5], 5])
def test_features_that_are_not_there_are_refused(indices: int | Iterable[int]) -> None:
    model = timm.create_model("parnet_nano").eval()
    with pytest.raises(NetworkError, match="indices from 0 to 3"):
        model.forward_intermediates(torch.zeros(1, 3, 8, 8), indices=indices)
    with pytest.raises(NetworkError, match="use NCHW"):
        model.forward_intermediates(torch.zeros(1, 3, 8, 8), output_fmt="NLC")


def test_overrides_reach_the_network() -> None:
    model = timm.create_model("parnet_nano", num_classes=7, in_chans=1, activation="relu", drop_rate=0.5).eval()
    assert (model.cfg.num_classes, model.cfg.in_chans, model.cfg.activation) == (7, 1, "relu")
    assert model.head.drop.p == 0.5
    assert not any(isinstance(module, torch.nn.SiLU) for module in model.modules())
    assert sum(isinstance(module, torch.nn.ReLU) for module in model.modules()) == 20
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert timm.create_model("parnet_nano", num_classes=0).eval()(torch.zeros(2, 3, 8, 8)).shape == (2, 128)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"in_chans": 0}, "in_chans"),
        ({"num_classes": -1}, "num_classes"),
        ({"activation": "gelu"}, "activation"),
        ({"drop_rate": 1.0}, "drop_rate"),
        ({"planes": (16, 30, 64)}, "multiples of 4"),
        ({"planes": (16, 32)}, "one entry per stream"),
        ({"stem": (16, 16, 8)}, "first stream's width"),
        ({"width": 3}, "width"),
        ({"global_pool": "max"}, "average only"),
    ],
)
def test_impossible_overrides_are_refused(override: dict[str, object], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        timm.create_model("parnet_nano", **override)


def test_timm_config_says_how_images_are_prepared() -> None:
    for name, variant in VARIANTS.items():
        cfg = timm.get_pretrained_cfg(name)
        assert cfg is not None
        found = (cfg.input_size, cfg.mean, cfg.std, cfg.interpolation, cfg.crop_pct, cfg.num_classes)
        pre = variant.preprocessing
        wanted = (pre.input_size, pre.mean, pre.std, pre.interpolation, pre.crop_pct, variant.network.num_classes)
        assert found == wanted
    with torch.device("meta"):
        model = timm.create_model("parnet_nano")
    modules = dict(model.named_modules())
    assert all(isinstance(modules[name], torch.nn.Conv2d) for name in cfg.first_conv)
    sees_the_image = [name for name, module in modules.items() if getattr(module, "in_channels", None) == 3]
    assert sorted(cfg.first_conv) == sorted(sees_the_image)
    assert isinstance(modules[cfg.classifier], torch.nn.Linear)


def test_architecture_of_ignores_what_does_not_shape_the_graph() -> None:
    for name, variant in VARIANTS.items():
        changed = variant.network.model_copy(update={"num_classes": 3, "in_chans": 1, "activation": "relu"})
        assert architecture_of(changed) == name
    assert architecture_of(VARIANTS["parnet_s"].network.model_copy(update={"last_planes": 1281})) == "parnet"


def test_unknown_variant_is_refused_with_the_list() -> None:
    with pytest.raises(NetworkError, match="parnet_cifar_s"):
        get_variant("parnet_xxl")
