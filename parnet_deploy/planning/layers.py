"""Lay out the layers of a ParNet: which block makes which tensor, what it reads, and how deep it lies.

A block's tensor has the name of the boundary that it is (`stream2`, made by the last block of stream 2), or else the
block's own name, as in the state dict: `stream2.3`. Both forms make the same tensors, with two exceptions: the terms of
a Fusion block exist in the fused form alone, and the training form shuffles the channels of a Fusion block's output
(`shuffled_names`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.planning.partition import IMAGE, LOGITS, fusion_name, level_name, stream_name, term_names


@dataclass(frozen=True)
class Layer:
    """A tensor and the block that makes it.

    `inputs` are the tensors that the block reads; `depth` counts convolution and linear layers from the image on.
    """

    tensor: str
    block: str
    inputs: tuple[str, ...]
    depth: int


@dataclass(frozen=True)
class Reach:
    """What lies between a known tensor and those known before it.

    `inputs` are the nearest known tensors that it is computed from, `blocks` all on the way, in topological order.
    """

    inputs: tuple[str, ...]
    blocks: tuple[str, ...]


def network_layers(network: NetworkConfig) -> tuple[Layer, ...]:
    """Return the layers of a network in topological order, from the stem to the logits."""
    layers: dict[str, Layer] = {}

    def add(tensor: str, block: str, *inputs: str, deepens: bool = True) -> str:
        depth = max((layers[name].depth for name in inputs if name in layers), default=0) + deepens
        layers[tensor] = Layer(tensor, block, inputs, depth)
        return tensor

    def add_sequence(name: str, count: int, source: str) -> None:
        for index in range(count):
            block = f"{name}.{index}"
            source = add(name if index == count - 1 else block, block, source)

    streams = range(1, network.num_streams + 1)
    add_sequence(level_name(1), len(network.stem), IMAGE)
    for i in streams[1:]:
        add(level_name(i), level_name(i), level_name(i - 1))
    for i, count in zip(streams, network.num_blocks, strict=True):
        add_sequence(stream_name(i), count, level_name(i))
    joined = stream_name(1)
    if network.num_streams > 1:
        joined = add(fusion_name(1), fusion_name(1), joined)
    for i in streams[1:]:
        terms = [
            add(term, fusion_name(i), source)
            for side, source in (("stream", stream_name(i)), ("finer", joined))
            for term in term_names(i, side)
        ]
        joined = add(fusion_name(i), fusion_name(i), *terms, deepens=False)
    add(LOGITS, "head", add("last", "last", joined))
    return tuple(layers.values())


def shuffled_names(num_streams: int) -> tuple[str, ...]:
    """Return the tensors whose channels the training form interleaves and the fused form leaves as they are."""
    return tuple(fusion_name(i) for i in range(2, num_streams + 1))


def reach_of(layers: tuple[Layer, ...], known: Collection[str]) -> dict[str, Reach]:
    """Return what lies before each known tensor, in topological order; the image counts as known."""
    order = {layer.block: index for index, layer in enumerate(layers)}
    reaches: dict[str, Reach] = {}
    for layer in layers:
        inputs: dict[str, None] = {}
        blocks: dict[str, None] = {}
        for name in layer.inputs:
            if name == IMAGE or name in known:
                inputs[name] = None
            else:
                inputs |= dict.fromkeys(reaches[name].inputs)
                blocks |= dict.fromkeys(reaches[name].blocks)
        blocks[layer.block] = None
        reaches[layer.tensor] = Reach(tuple(inputs), tuple(sorted(blocks, key=order.__getitem__)))
    return {name: reach for name, reach in reaches.items() if name in known}
