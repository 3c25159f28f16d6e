"""Layers: order, depth and what each reads, for every registered network; and what is left when some are unknown."""

from __future__ import annotations

import pytest

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.models.variants import VARIANTS
from parnet_deploy.planning.layers import Reach, network_layers, reach_of, shuffled_names
from parnet_deploy.planning.partition import boundary_names

NETWORK = NetworkConfig(stem=(6, 8), planes=(8, 12, 16), num_blocks=(1, 2, 1), last_planes=20, num_classes=7)


def test_layers_of_a_small_network() -> None:
    found = {layer.tensor: (layer.block, layer.inputs, layer.depth) for layer in network_layers(NETWORK)}
    assert found == {
        "stem.0": ("stem.0", ("image",), 1),
        "stem": ("stem.1", ("stem.0",), 2),
        "level2": ("level2", ("stem",), 3),
        "level3": ("level3", ("level2",), 4),
        "stream1": ("stream1.0", ("stem",), 3),
        "stream2.0": ("stream2.0", ("level2",), 4),
        "stream2": ("stream2.1", ("stream2.0",), 5),
        "stream3": ("stream3.0", ("level3",), 5),
        "fusion1": ("fusion1", ("stream1",), 4),
        "fusion2/stream/conv": ("fusion2", ("stream2",), 6),
        "fusion2/stream/gate": ("fusion2", ("stream2",), 6),
        "fusion2/finer/conv": ("fusion2", ("fusion1",), 5),
        "fusion2/finer/gate": ("fusion2", ("fusion1",), 5),
        "fusion2": (
            "fusion2",
            ("fusion2/stream/conv", "fusion2/stream/gate", "fusion2/finer/conv", "fusion2/finer/gate"),
            6,
        ),
        "fusion3/stream/conv": ("fusion3", ("stream3",), 6),
        "fusion3/stream/gate": ("fusion3", ("stream3",), 6),
        "fusion3/finer/conv": ("fusion3", ("fusion2",), 7),
        "fusion3/finer/gate": ("fusion3", ("fusion2",), 7),
        "fusion3": (
            "fusion3",
            ("fusion3/stream/conv", "fusion3/stream/gate", "fusion3/finer/conv", "fusion3/finer/gate"),
            7,
        ),
        "last": ("last", ("fusion3",), 8),
        "logits": ("head", ("last",), 9),
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_layers_of_every_variant(name: str) -> None:
    network = VARIANTS[name].network
    layers = network_layers(network)
    ready = {"image"}
    for layer in layers:
        assert ready.issuperset(layer.inputs)
        ready.add(layer.tensor)
    assert layers[-1].tensor == "logits"
    assert layers[-1].depth == network.depth
    assert ready.issuperset(boundary_names(network.num_streams, with_terms=True))
    blocks = {layer.block for layer in layers}
    fusions = network.num_streams if network.num_streams > 1 else 0
    assert len(blocks) == len(network.stem) + network.num_streams - 1 + sum(network.num_blocks) + fusions + 2


def test_only_fusion_blocks_of_two_inputs_shuffle() -> None:
    assert shuffled_names(1) == ()
    assert shuffled_names(3) == ("fusion2", "fusion3")


def test_reach_names_the_blocks_that_cannot_be_told_apart() -> None:
    layers = network_layers(NETWORK)
    assert reach_of(layers, {"stream1", "stream2", "logits"}) == {
        "stream1": Reach(("image",), ("stem.0", "stem.1", "stream1.0")),
        "stream2": Reach(("image",), ("stem.0", "stem.1", "level2", "stream2.0", "stream2.1")),
        "logits": Reach(
            ("image", "stream2", "stream1"),
            ("stem.0", "stem.1", "level2", "level3", "stream3.0", "fusion1", "fusion2", "fusion3", "last", "head"),
        ),
    }
    every = reach_of(layers, {layer.tensor for layer in layers})
    for layer in layers:
        assert every[layer.tensor] == Reach(layer.inputs, (layer.block,))
    without_terms = reach_of(layers, {layer.tensor for layer in layers if "/" not in layer.tensor})
    assert without_terms["fusion3"] == Reach(("stream3", "fusion2"), ("fusion3",))
