"""Choose how a network is quantised, by the error of its logits on images that calibration did not see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from parnet_deploy.artifacts.quantization import Method, MethodScore
from parnet_deploy.planning.partition import LOGITS
from parnet_deploy.quantize.grids import Array, steps_for
from parnet_deploy.quantize.insert import Recipe, insert_qdq
from parnet_deploy.quantize.layers import Form, Placement, place_qdq
from parnet_deploy.quantize.measure import Phases, agreement, logits_of, measure_shifts, observe, sqnr_db
from parnet_deploy.quantize.ranges import METHODS, Range
from parnet_deploy.quantize.source import Source

# The images that the mean error of layers is measured on: a mean over pixels too, so few give it.
_SHIFT_IMAGES = 64


@dataclass(frozen=True)
class Choice:
    """The recipe that was best, and what was measured on the way; ratios are of the selection images' logits, in dB."""

    recipe: Recipe
    method: Method
    seen: Mapping[str, Range]
    ranges: Mapping[str, Range]
    scores: tuple[MethodScore, ...]
    sqnr_db: float
    sqnr_db_without_correction: float

    @property
    def is_corrected(self) -> bool:
        """Whether correcting the biases paid."""
        return bool(self.recipe.shifts)


def methods_for(form: Form, asked: Method | None) -> tuple[Method, ...]:
    """Return the methods to try. Steps of float8 grow with the number, so that clipping gains it nothing: min-max."""
    if asked is not None:
        return (asked,)
    return tuple(METHODS) if form.activations.is_integer else ("min-max",)


def choose_recipe(
    source: Source, methods: tuple[Method, ...], calibration: Array, selection: Array, phases: Phases
) -> Choice:
    """Calibrate, and try every method with all layers quantised; then try the best with corrected biases."""
    model, form, count = source.free, source.form, len(selection)
    placement = place_qdq(source.layers, form, {LOGITS})
    histograms = observe(model, calibration, placement.tensors, phases("calibrating", 2 * len(calibration)))
    reference = logits_of(model, selection, phases("running the float network", count))
    ranges: dict[Method, dict[str, Range]] = {}
    recipes: dict[Method, Recipe] = {}
    scores = []
    for method in methods:
        choose = METHODS[method]
        ranges[method] = {name: choose(seen, form.activations) for name, seen in histograms.items()}
        steps = {name: steps_for(*span, form.activations, source.float_type) for name, span in ranges[method].items()}
        recipes[method] = Recipe(form, steps, float_type=source.float_type)
        quantized = insert_qdq(model, placement, recipes[method])
        found = logits_of(quantized, selection, phases(f"trying {method}", count))
        scores.append(
            MethodScore(method=method, sqnr_db=sqnr_db(reference, found), agreement=agreement(reference, found))
        )
    best = max(scores, key=lambda score: score.sqnr_db)
    recipe = recipes[best.method]
    corrected = correct_biases(model, placement, recipe, calibration, phases)
    found = logits_of(insert_qdq(model, placement, corrected), selection, phases("trying the correction", count))
    gained = sqnr_db(reference, found)
    return Choice(
        recipe=corrected if gained > best.sqnr_db else recipe,
        method=best.method,
        seen={name: (seen.low, seen.high) for name, seen in histograms.items()},
        ranges=ranges[best.method],
        scores=tuple(scores),
        sqnr_db=max(gained, best.sqnr_db),
        sqnr_db_without_correction=best.sqnr_db,
    )


def correct_biases(model: ir.Model, placement: Placement, recipe: Recipe, calibration: Array, phases: Phases) -> Recipe:
    """Return the recipe with the mean error of every quantised layer added to its bias."""
    images = calibration[:_SHIFT_IMAGES]
    depths = len({layer.depth for layer in placement.layers})
    advance = phases("correcting biases", (depths + 1) * len(images))
    return replace(recipe, shifts=measure_shifts(model, placement, replace(recipe, shifts={}), images, advance))
