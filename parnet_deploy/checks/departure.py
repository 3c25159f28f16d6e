"""Find the layer at which two artefacts part: a pure function from measured differences to one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from parnet_deploy.artifacts.verification import Departure, Extent, LayerDifference
from parnet_deploy.planning.partition import IMAGE

# A layer passes on what its inputs differ by, a little more or less of it. Ten times that is its own doing.
GROWTH = 10.0


def find_departure(layers: Sequence[LayerDifference], noise: float) -> Departure | None:
    """Return the first layer that departs, in topological order; None if none does.

    A layer departs if it is beyond its tolerance, or if it differs by over `GROWTH` times its inputs' difference; in
    that, inputs count as at least `noise`, the difference that rounding makes in one layer. A layer behind one that
    departs is one of the `others` only if it grows beyond what it was given. What a tensor of all but zeros differs by
    does not count.
    """
    sizes = {layer.name: 0.0 if layer.is_negligible else layer.size for layer in layers}
    spoilt: set[str] = set()
    origins = []
    for layer in layers:
        grows, follows = _grows(layer, sizes, noise), not spoilt.isdisjoint(layer.inputs)
        if grows or not (layer.passed or follows):
            origins.append(layer)
        if grows or follows or not layer.passed:
            spoilt.add(layer.name)
    if not origins:
        return None
    first = origins[0]
    largest = max(first.inputs, key=lambda name: sizes.get(name, 0.0))
    made = Departure(
        layer=first.name,
        blocks=first.blocks,
        size=first.size,
        input=largest,
        input_size=sizes.get(largest, 0.0),
        reason="not finite" if math.isinf(first.size) else ("grows" if first.passed else "beyond the tolerance"),
        others=tuple(layer.name for layer in origins[1:]),
        sentence="",
    )
    return made.model_copy(update={"sentence": _sentence(made, first)})


def _grows(layer: LayerDifference, sizes: dict[str, float], noise: float) -> bool:
    before = max((sizes.get(name, 0.0) for name in layer.inputs), default=0.0)
    return sizes[layer.name] > GROWTH * max(before, noise)


def _sentence(departure: Departure, layer: LayerDifference) -> str:
    where = describe_extent(layer.extent)
    blocks = _blocks(departure)
    place = f"{departure.layer}{f' ({blocks})' if blocks else ''}{f' in stage {layer.stage}' if layer.stage else ''}"
    size = "not finite" if departure.reason == "not finite" else f"{short(departure.size)} relative"
    parts = [f"{place} is the first to depart: {size}{f', {where}' if where else ''}, {_inputs(departure, layer)}"]
    if departure.reason == "grows":
        parts.append("; it is within the tolerance, but no rounding makes that much of its inputs")
    if departure.others:
        parts.append(f"; on their own depart {', '.join(departure.others)}")
    return "".join(parts)


def _blocks(departure: Departure) -> str:
    if len(departure.blocks) == 1:
        return "" if departure.blocks[0] == departure.layer else f"block {departure.blocks[0]}"
    return f"blocks {departure.blocks[0]} to {departure.blocks[-1]}"


def _inputs(departure: Departure, layer: LayerDifference) -> str:
    if departure.input == IMAGE:
        return "its input is the image"
    if departure.input_size == 0:
        return f"its input{' does' if len(layer.inputs) == 1 else 's do'} not differ"
    if len(layer.inputs) == 1:
        return f"its input {short(departure.input_size)}"
    return f"its inputs at most {short(departure.input_size)}"


def describe_extent(extent: Extent | None) -> str:
    """Say where a difference lies if it does not lie everywhere: channels, images, or the border."""
    if extent is None:
        return ""
    parts = []
    if extent.channel_count * 4 <= extent.num_channels and extent.channel_count <= len(extent.channels):
        parts.append(f"in {_listed('channel', extent.channels)} of {extent.num_channels}")
    if extent.image_count * 2 <= extent.num_images and extent.image_count <= len(extent.images):
        parts.append(f"in {_listed('image', extent.images)}")
    if extent.only_border:
        parts.append("at the border alone")
    return " ".join(parts)


def _listed(noun: str, numbers: Sequence[int]) -> str:
    *rest, last = (str(number) for number in numbers)
    return f"{noun}s {', '.join(rest)} and {last}" if rest else f"{noun} {last}"


def short(value: float) -> str:
    """Write a difference with two digits: `4.0e-7`."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"
