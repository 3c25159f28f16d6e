"""Rank layers by what quantising each alone does to the logits, and say which to leave in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import onnx_ir as ir

from parnet_deploy.artifacts.quantization import LayerSensitivity
from parnet_deploy.planning.partition import LOGITS
from parnet_deploy.quantize.grids import Array
from parnet_deploy.quantize.insert import Recipe, insert_qdq
from parnet_deploy.quantize.layers import Layer, place_qdq
from parnet_deploy.quantize.measure import Phases, logits_of, sqnr_db


def measure_layers(
    model: ir.Model, layers: tuple[Layer, ...], recipe: Recipe, images: Array, phases: Phases
) -> tuple[LayerSensitivity, ...]:
    """Quantise one layer at a time: its weights, and of its input and result what the form quantises.

    Without correction of its bias, which makes up for the layers before it too.
    """
    recipe = replace(recipe, shifts={})
    advance = phases("measuring each layer alone", (len(layers) + 1) * len(images))
    reference = logits_of(model, images, advance)
    total = sum(layer.operations for layer in layers)
    names = {layer.name for layer in layers}
    measured = []
    for layer in layers:
        alone = place_qdq(layers, recipe.form, {LOGITS}, names - {layer.name})
        found = logits_of(insert_qdq(model, alone, recipe), images, advance)
        measured.append(
            LayerSensitivity(
                name=layer.name,
                kind=layer.kind,
                block=layer.block,
                weights=layer.weights,
                share=layer.operations / total,
                sqnr_db=sqnr_db(reference, found),
                changed=int((reference.argmax(axis=1) != found.argmax(axis=1)).sum()),
                is_float=False,
            )
        )
    return tuple(measured)


def float_candidates(layers: tuple[LayerSensitivity, ...], max_share: float) -> Iterator[tuple[str, ...]]:
    """Yield sets of layers to leave in float: none, the worst, the worst two, four, .. and all that fit.

    A layer that would make the float share of the operations larger than `max_share` is passed over. Their number
    doubles, so that a network that cannot pass is known after a few trials.
    """
    fitting: list[str] = []
    share = 0.0
    for layer in sorted(layers, key=lambda entry: entry.sqnr_db):
        if share + layer.share <= max_share:
            share += layer.share
            fitting.append(layer.name)
    yield ()
    count = 1
    while count < len(fitting):
        yield tuple(fitting[:count])
        count *= 2
    if fitting:
        yield tuple(fitting)
