"""Q/DQ in a graph: weights as the formula says, errors within the steps, what stays float to the bit."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import Stage
from parnet_deploy.graphs.run import run_graph
from parnet_deploy.graphs.stages import extract_stage, tensor_spec
from parnet_deploy.planning.partition import LOGITS
from parnet_deploy.quantize.grids import Steps, steps_for
from parnet_deploy.quantize.insert import Recipe, insert_qdq
from parnet_deploy.quantize.layers import FORMS, Form, find_layers, form_for, place_qdq
from parnet_deploy.quantize.measure import observe
from tests.quantize.small_graphs import images, one_convolution, skip_network

EVERY_FORM = {
    **{f"{target}-{precision}": form for (target, precision), form in FORMS.items()},
    "cpu-int8-7": form_for("cpu", "int8", 7),
    "openvino-int8-7": form_for("openvino", "int8", 7),
}
every_form = pytest.mark.parametrize("form", EVERY_FORM.values(), ids=EVERY_FORM)


def quantized(
    model: ir.Model, form: Form, batch: np.ndarray, float_layers: tuple[str, ...] = (), **options: object
) -> tuple[ir.Model, Recipe]:
    """Quantise by the extremes of a batch."""
    placement = place_qdq(find_layers(model), form, {LOGITS}, float_layers)
    everything = place_qdq(find_layers(model), form, {LOGITS})
    seen = observe(model, batch, everything.tensors, lambda _: None)
    recipe = Recipe(form, {name: steps_for(h.low, h.high, form.activations) for name, h in seen.items()}, **options)
    return insert_qdq(model, placement, recipe), recipe


def constants(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@every_form
def test_weights_are_what_the_formula_says(form: Form) -> None:
    model = skip_network()
    result, recipe = quantized(model, form, images(1))
    before, after = constants(model), constants(result)
    layers = {"stem/conv": "stem", "block/0/gate": "gate", "block/0/conv": "conv"}
    for layer, name in layers.items():
        weight = before[f"{name}.weight"].astype(np.float64)
        largest = np.abs(weight).max(axis=(1, 2, 3))
        scale = (largest / form.weights.high).astype(np.float32)
        found = after[f"{layer}/Conv/weight"]
        assert after[f"{layer}/Conv/weight/scale"] == pytest.approx(scale, rel=1e-6)
        assert not after[f"{layer}/Conv/weight/zero_point"].astype(np.float32).any()
        if form.weights.is_integer:
            expected = np.clip(np.rint(before[f"{name}.weight"] / scale[:, None, None, None]), -127, 127)
            assert np.array_equal(found, expected.astype(np.int8))
        else:
            assert np.array_equal(found, (before[f"{name}.weight"] / scale[:, None, None, None]).astype(found.dtype))
        assert f"{name}.weight" not in after
    if form.quantizes_bias:
        scale = recipe.steps["image"].scale * after["stem/conv/Conv/weight/scale"]
        assert after["stem/conv/Conv/bias"].dtype == np.int32
        biases = after["stem/conv/Conv/bias"] * scale.astype(np.float64)
        assert biases == pytest.approx(before["stem.bias"], abs=float(scale.max()))
    else:
        assert np.array_equal(after["stem.bias"], before["stem.bias"])


@every_form
def test_every_layer_in_float_is_the_float_graph_to_the_bit(form: Form) -> None:
    model, batch = skip_network(), images(1)
    names = tuple(layer.name for layer in find_layers(model))
    result, _ = quantized(model, form, batch, names)
    assert kinds(result) == kinds(model)
    for name, array in constants(model).items():
        assert np.array_equal(constants(result)[name], array)
    found = run_graph(result, {"image": batch}, (LOGITS,))[LOGITS]
    assert np.array_equal(found, run_graph(model, {"image": batch}, (LOGITS,))[LOGITS])


@every_form
def test_a_layer_in_float_keeps_its_weights_and_what_it_reads(form: Form) -> None:
    model, batch = skip_network(), images(1)
    result, _ = quantized(model, form, batch, ("block/0/gate", "head/fc"))
    after = constants(result)
    for name in ("gate.weight", "fc.weight", "fc.bias"):
        assert np.array_equal(after[name], constants(model)[name])
    nodes = {node.name: node for node in result.graph}
    assert nodes["block/0/gate/Conv"].inputs[0].name == "pool"
    assert nodes["head/fc/Gemm"].inputs[0].name == "flat"
    # The block's convolution is quantised, so the tensor it shares with the skip and the pool is, for all of them.
    assert {node.inputs[0].name for node in (nodes["block/0/conv/Conv"], nodes["block/0/Mul"])} == {"stem/dequantized"}
    assert nodes["block/0/GlobalAveragePool"].inputs[0].name == "stem/dequantized"


def test_forms_place_their_pairs() -> None:
    model = skip_network()
    layers = find_layers(model)
    assert place_qdq(layers, form_for("openvino", "int8"), {LOGITS}).tensors == ("image", "pool", "stem", "flat")
    on_cpu = place_qdq(layers, form_for("cpu", "int8"), {LOGITS}).tensors
    assert on_cpu == ("image", "pool", "stem", "flat", "stem/c", "gate", "conv")
    for (target, _), form in FORMS.items():
        result, _ = quantized(model, form, images(1))
        zeros = {name: array for name, array in constants(result).items() if name.endswith("zero_point")}
        activations = [array for name, array in zeros.items() if array.ndim == 0]
        assert all(array.dtype == form.activations.dtype for array in activations)
        if target == "tensorrt":
            assert not any(array.astype(np.float32).any() for array in zeros.values())
            assert np.int32 not in {array.dtype for array in constants(result).values()}
        else:
            assert any(array.any() for array in activations)


@settings(max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([form for form in EVERY_FORM.values() if form.weights.is_integer]),
    st.integers(1, 5),
    st.integers(1, 5),
    st.booleans(),
)
def test_one_layer_is_off_by_no_more_than_its_steps(
    seed: int, form: Form, channels: int, filters: int, has_bias: bool
) -> None:
    random = np.random.default_rng(seed)
    sizes = 10 ** random.uniform(-2, 1, (filters, 1, 1, 1))
    weight = (random.standard_normal((filters, channels, 3, 3)) * sizes).astype(np.float32)
    bias = random.standard_normal(filters).astype(np.float32) if has_bias else None
    model, batch = one_convolution(weight, bias), images(1, channels, seed)
    result, recipe = quantized(model, form, batch)
    expected = run_graph(model, {"image": batch}, (LOGITS,))[LOGITS].astype(np.float64)
    found = run_graph(result, {"image": batch}, (LOGITS,))[LOGITS]
    # |w x - w' x'| <= |w| |x - x'| + |w - w'| |x'|, with half a step for each difference, and the bias's half step.
    step = float(recipe.steps["image"].scale) * (0.5 if form.activations.is_symmetric else 1.0)
    weight_step = np.abs(weight).max(axis=(1, 2, 3)) / 127
    patches = np.abs(np.pad(batch[0], ((0, 0), (1, 1), (1, 1)))) + step
    inputs = sum(patches[:, i : i + 6, j : j + 6].sum(axis=0) for i in range(3) for j in range(3))
    bound = (
        step * np.abs(weight).sum(axis=(1, 2, 3))[:, None, None]
        + weight_step[:, None, None] / 2 * inputs[None]
        + (weight_step * step * 2)[:, None, None]
    )
    assert (np.abs(found[0] - expected[0]) <= bound * (1 + 1e-3) + 1e-5).all()


@every_form
def test_the_source_is_untouched(form: Form) -> None:
    model = skip_network()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    quantized(model, form, images(1))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_a_shift_is_added_to_the_bias_or_becomes_it() -> None:
    model, batch = skip_network(), images(1)
    shifts = {"stem/conv": np.full(4, 0.25, np.float32), "block/0/gate": np.arange(4, dtype=np.float32)}
    result, _ = quantized(model, form_for("openvino", "int8"), batch, shifts=shifts)
    after = constants(result)
    assert np.array_equal(after["stem/conv/Conv/bias"], constants(model)["stem.bias"] + np.float32(0.25))
    assert after["block/0/gate/Conv/bias"].tolist() == [0.0, 1.0, 2.0, 3.0]
    on_cpu, recipe = quantized(model, form_for("cpu", "int8"), batch, shifts=shifts)
    scale = recipe.steps["pool"].scale * constants(on_cpu)["block/0/gate/Conv/weight/scale"]
    assert constants(on_cpu)["block/0/gate/Conv/bias"] * scale == pytest.approx([0, 1, 2, 3], abs=float(scale.max()))


def test_a_channel_of_next_to_no_weight_keeps_its_bias() -> None:
    weight = np.ones((2, 1, 3, 3), np.float32)
    weight[0] = 1e-20
    model, batch = one_convolution(weight, np.array([5.0, -3.0], np.float32)), images(1, 1)
    result, _ = quantized(model, form_for("cpu", "int8"), batch)
    found = run_graph(result, {"image": batch}, (LOGITS,))[LOGITS]
    assert found[0, 0] == pytest.approx(np.full((6, 6), 5.0), rel=1e-6)


def test_integers_take_the_name_of_a_boundary() -> None:
    model, batch = skip_network(), images(1)
    form = form_for("cpu", "int8")
    _, recipe = quantized(model, form, batch)
    cut = insert_qdq(model, place_qdq(find_layers(model), form, {LOGITS}), recipe, {"stem"})
    first = extract_stage(cut, Stage(name="first", inputs=("image",), outputs=("stem",)))
    second = extract_stage(cut, Stage(name="second", inputs=("stem",), outputs=(LOGITS,)))
    for spec in (tensor_spec(first.graph.outputs[0]), tensor_spec(second.graph.inputs[0])):
        assert (spec.dtype, spec.shape, spec.size_bytes) == ("uint8", (4, 6, 6), 144)
        assert spec.scale == float(recipe.steps["stem"].scale)
        assert spec.zero_point == recipe.steps["stem"].zero_point
    made = run_graph(first, {"image": batch}, ("stem",))["stem"]
    assert made.dtype == np.uint8
    whole = run_graph(cut, {"image": batch}, (LOGITS,))[LOGITS]
    assert run_graph(second, {"stem": made}, (LOGITS,))[LOGITS] == pytest.approx(whole, rel=1e-5)


def test_float16_scales_are_kept_apart_from_what_float16_cannot_hold() -> None:
    form = form_for("tensorrt", "int8")
    assert float(steps_for(-1e-9, 1e-9, form.activations, np.float16).scale) == pytest.approx(9.5e-7, rel=0.01)
    assert steps_for(0.0, 0.0, form.activations, np.float16) == Steps(np.float16(1.0))
