"""Layers, their ranking and the correction of their means, on small graphs and on shapes of a real network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from parnet_deploy.artifacts.quantization import LayerSensitivity
from parnet_deploy.errors import QuantizationError
from parnet_deploy.graphs.operations import count_gflop
from parnet_deploy.graphs.run import with_free_batch
from parnet_deploy.planning.partition import LOGITS
from parnet_deploy.quantize.grids import INT8, steps_for
from parnet_deploy.quantize.insert import Recipe, insert_qdq
from parnet_deploy.quantize.layers import FORMS, find_layers, form_for, place_qdq
from parnet_deploy.quantize.measure import MOST_DB, agreement, logits_of, measure_shifts, observe, run_over, sqnr_db
from parnet_deploy.quantize.sensitivity import float_candidates, measure_layers
from tests.quantize.small_graphs import images, skip_network

OPENVINO = form_for("openvino", "int8")


def recipe_for(model: ir.Model, batch: np.ndarray) -> Recipe:
    tensors = place_qdq(find_layers(model), OPENVINO, {LOGITS}).tensors
    seen = observe(model, batch, tensors, lambda _: None)
    return Recipe(OPENVINO, {name: steps_for(h.low, h.high, OPENVINO.activations) for name, h in seen.items()})


def test_layers_by_hand() -> None:
    model = skip_network()
    layers = find_layers(model)
    found = [(layer.name, layer.kind, layer.block, layer.source, layer.result, layer.depth) for layer in layers]
    assert found == [
        ("stem/conv", "convolution", "stem", "image", "stem/c", 1),
        ("block/0/gate", "gate", "block/0", "pool", "gate", 2),
        ("block/0/conv", "convolution", "block/0", "stem", "conv", 2),
        ("head/fc", "linear", "head", "flat", "logits", 3),
    ]
    assert [layer.weights for layer in layers] == [108, 16, 144, 12]
    assert [layer.operations for layer in layers] == [2 * 108 * 36, 2 * 16, 2 * 144 * 36, 2 * 12]
    assert sum(layer.operations for layer in layers) / 1e9 == pytest.approx(count_gflop(model))


def test_forms_are_for_what_targets_compute() -> None:
    assert set(FORMS) == {("cpu", "int8"), ("openvino", "int8"), ("tensorrt", "int8"), ("tensorrt", "fp8")}
    with pytest.raises(QuantizationError, match="target 'cpu' has no fp8"):
        form_for("cpu", "fp8")


def test_weights_of_seven_bits_are_for_processors() -> None:
    for target in ("cpu", "openvino"):
        form = form_for(target, "int8", 7)
        assert (form.weights.low, form.weights.high) == (-63, 63)
        assert replace(form, weights=INT8) == form_for(target, "int8")
    for precision in ("int8", "fp8"):
        with pytest.raises(QuantizationError, match="GPUs, whose sums do not saturate") as refused:
            form_for("tensorrt", precision, 7)
        assert "leave out --weight-bits" in str(refused.value)


def test_any_number_of_images_gives_what_single_ones_give() -> None:
    model, batch = skip_network(), images(11)
    together = logits_of(with_free_batch(model), batch, lambda _: None)
    one_by_one = [
        tensors[LOGITS] for image in batch for tensors in run_over(model, image[None], (LOGITS,), lambda _: None)
    ]
    assert together == pytest.approx(np.concatenate(one_by_one), rel=1e-5)


def test_observe_counts_every_number() -> None:
    model, batch = with_free_batch(skip_network()), images(19)
    told: list[int] = []
    seen = observe(model, batch, ("image", "stem", "pool"), told.append)
    assert sum(told) == 2 * 19
    assert seen["image"].counts.sum() == batch.size
    assert (seen["image"].low, seen["image"].high) == (batch.min(), batch.max())
    assert seen["stem"].counts.sum() == 19 * 4 * 36
    assert seen["pool"].counts.sum() == 19 * 4


def test_correction_takes_the_mean_error_away() -> None:
    model, batch = with_free_batch(skip_network(3)), images(40)
    placement = place_qdq(find_layers(model), OPENVINO, {LOGITS})
    recipe = recipe_for(model, batch)
    shifts = measure_shifts(model, placement, recipe, batch, lambda _: None)
    assert {name: shift.shape for name, shift in shifts.items()} == {
        "stem/conv": (4,),
        "block/0/gate": (4,),
        "block/0/conv": (4,),
        "head/fc": (3,),
    }
    expected = logits_of(model, batch, lambda _: None).mean(axis=0)
    plain = logits_of(insert_qdq(model, placement, recipe), batch, lambda _: None).mean(axis=0)
    corrected = insert_qdq(model, placement, replace(recipe, shifts=shifts))
    found = logits_of(corrected, batch, lambda _: None).mean(axis=0)
    assert np.abs(plain - expected).max() > 1e-4
    # What is left of it is the rounding of float32.
    assert found == pytest.approx(expected, abs=2e-6)


def test_a_layer_that_quantisation_ruins_is_ranked_worst() -> None:
    model, batch = with_free_batch(skip_network(5)), images(24)
    layers = find_layers(model)
    recipe = recipe_for(model, batch)
    # The block's convolution reads a tensor whose steps are far too wide.
    steps = dict(recipe.steps) | {"stem": steps_for(-300.0, 300.0, OPENVINO.activations)}
    measured = measure_layers(model, layers, replace(recipe, steps=steps), batch, lambda _t, _n: lambda _: None)
    assert [entry.name for entry in measured] == [layer.name for layer in layers]
    assert min(measured, key=lambda entry: entry.sqnr_db).name == "block/0/conv"
    assert sum(entry.share for entry in measured) == pytest.approx(1.0)
    sound = measure_layers(model, layers, recipe, batch, lambda _t, _n: lambda _: None)
    others = {entry.name: entry.sqnr_db for entry in measured if entry.name != "block/0/conv"}
    assert others == {entry.name: entry.sqnr_db for entry in sound if entry.name != "block/0/conv"}


def sensitivity(name: str, db: float, share: float) -> LayerSensitivity:
    return LayerSensitivity(
        name=name, kind="gate", block="b", weights=1, share=share, sqnr_db=db, changed=0, is_float=False
    )


def test_the_worst_layers_that_fit_stay_in_float() -> None:
    layers = tuple(
        sensitivity(name, db, share)
        for name, db, share in (("a", 50, 0.05), ("b", 10, 0.1), ("c", 20, 0.5), ("d", 30, 0.04), ("e", 40, 0.05))
    )
    # c would take the share beyond a quarter, so it is passed over; their number doubles.
    assert list(float_candidates(layers, 0.25)) == [(), ("b",), ("b", "d"), ("b", "d", "e", "a")]
    assert list(float_candidates(layers, 0.0)) == [()]
    assert list(float_candidates(layers, 1.0))[-1] == ("b", "c", "d", "e", "a")


def test_ratios_by_hand() -> None:
    reference = np.array([[3.0, 4.0]], np.float32)
    assert sqnr_db(reference, reference + np.array([0.3, 0.4])) == pytest.approx(20.0)
    assert sqnr_db(reference, reference) == MOST_DB
    assert sqnr_db(reference, np.array([[np.nan, 4.0]])) == -np.inf
    assert agreement(np.eye(4), np.eye(4)[[0, 1, 3, 3]]) == 75.0
