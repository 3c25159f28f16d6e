"""Run float and candidate graphs over images: extremes, histograms, mean shifts, logits and their error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from parnet_deploy.artifacts.schemas import Stage
from parnet_deploy.graphs.run import GraphRunner
from parnet_deploy.graphs.stages import extract_stage
from parnet_deploy.planning.partition import IMAGE, LOGITS
from parnet_deploy.quantize.grids import Array
from parnet_deploy.quantize.insert import Recipe, insert_qdq
from parnet_deploy.quantize.layers import Layer, Placement
from parnet_deploy.quantize.ranges import Histogram

# Called with the number of images that were run since the last call.
Advance = Callable[[int], None]

# Called with what begins and how many images it will run; returns what to tell of them.
Phases = Callable[[str, int], Advance]

# Beyond this the float network's own rounding is most of what is measured.
MOST_DB = 120.0

_BATCH = 8


def run_over(model: ir.Model, images: Array, names: tuple[str, ...], advance: Advance) -> Iterator[dict[str, Array]]:
    """Yield the named tensors, and the image, of one batch after another; the graph takes any number of images."""
    runner = GraphRunner(model, tuple(name for name in names if name != IMAGE))
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        yield {IMAGE: batch, **runner.run({IMAGE: batch})}
        advance(len(batch))


def observe(model: ir.Model, images: Array, names: tuple[str, ...], advance: Advance) -> dict[str, Histogram]:
    """Return the histogram of each named tensor over images: once over them for the extremes, once to count."""
    extremes = dict.fromkeys(names, (np.inf, -np.inf))
    for tensors in run_over(model, images, names, advance):
        for name, (low, high) in extremes.items():
            extremes[name] = (min(low, float(tensors[name].min())), max(high, float(tensors[name].max())))
    histograms = {name: Histogram(low, high) for name, (low, high) in extremes.items()}
    for tensors in run_over(model, images, names, advance):
        for name, histogram in histograms.items():
            histogram.add(tensors[name])
    return histograms


def measure_shifts(
    model: ir.Model, placement: Placement, recipe: Recipe, images: Array, advance: Advance
) -> dict[str, Array]:
    """Return per layer what quantisation takes from its result on average, per channel, to be added to its bias.

    Errors of rounding and clipping do not cancel out over a channel's weights, and their mean moves every pixel alike
    (Nagel et al. 2019, section 4.2). Layers of one depth are measured at once, with those before them corrected
    already; so a network takes as many passes as it is deep.
    """
    by_depth: dict[int, list[Layer]] = {}
    for layer in placement.layers:
        by_depth.setdefault(layer.depth, []).append(layer)
    wanted = _mean_results(model, placement.layers, images, advance)
    shifts: dict[str, Array] = {}
    for _, layers in sorted(by_depth.items()):
        corrected = insert_qdq(model, placement, replace(recipe, shifts=shifts))
        found = _mean_results(corrected, layers, images, advance)
        shifts = shifts | {layer.name: (wanted[layer.name] - found[layer.name]).astype(np.float32) for layer in layers}
    return shifts


def _mean_results(model: ir.Model, layers: Sequence[Layer], images: Array, advance: Advance) -> dict[str, Array]:
    """Return the mean of each channel of the layers' results over images and pixels, float64."""
    results = tuple(layer.result for layer in layers)
    prefix = extract_stage(model, Stage(name="prefix", inputs=(IMAGE,), outputs=results))
    sums: dict[str, Array] = {layer.name: np.zeros(1) for layer in layers}
    for tensors in run_over(prefix, images, results, advance):
        for layer in layers:
            values = tensors[layer.result].astype(np.float64)
            sums[layer.name] = sums[layer.name] + values.reshape(*values.shape[:2], -1).mean(axis=2).sum(axis=0)
    return {name: total / len(images) for name, total in sums.items()}


def logits_of(model: ir.Model, images: Array, advance: Advance) -> Array:
    """Return the logits of a graph, float32 [N, classes]."""
    return np.concatenate([tensors[LOGITS] for tensors in run_over(model, images, (LOGITS,), advance)])


def sqnr_db(reference: Array, found: Array) -> float:
    """Return the ratio of the reference's energy to that of the difference, in dB; minus infinity where not finite."""
    if not np.isfinite(found).all():
        return -np.inf
    signal = float((reference.astype(np.float64) ** 2).sum())
    noise = float(((reference.astype(np.float64) - found) ** 2).sum())
    return MOST_DB if noise <= signal * 10 ** (-MOST_DB / 10) else 10 * float(np.log10(signal / noise))


def agreement(reference: Array, found: Array) -> float:
    """Return the share of images with the same most likely class, in points."""
    return 100 * float((reference.argmax(axis=1) == found.argmax(axis=1)).mean())
