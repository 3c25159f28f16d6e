"""Rounding to a grid: ONNX Runtime's own QuantizeLinear, bounds of the error, and zero exactly."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from parnet_deploy.quantize.grids import (
    FLOAT8,
    INT7,
    INT8,
    UINT8,
    Grid,
    Steps,
    from_grid,
    steps_for,
    to_grid,
    weight_steps,
)

GRIDS = {"uint8": UINT8, "int8": INT8, "float8": FLOAT8}
ENDS = st.tuples(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32)).map(sorted)


@given(ENDS, st.sampled_from([UINT8, INT8, INT7]))
@example([0.0, 0.0], UINT8)
@example([-0.278, 12.5], UINT8)
def test_what_is_in_range_is_off_by_half_a_step_at_most(ends: list[float], grid: Grid) -> None:
    low, high = ends
    steps = steps_for(low, high, grid)
    low, high = min(low, 0.0), max(high, 0.0)
    values = np.linspace(low, high, 1001).astype(np.float32)
    scale = float(steps.scale)
    error = np.abs(from_grid(to_grid(values, steps, grid), steps) - values.astype(np.float64))
    # Half a step of rounding; asymmetric ends may lie another half step outside, because zero is on the grid.
    allowed = scale * (0.5 if grid.is_symmetric else 1.0)
    assert error.max() <= allowed * (1 + 1e-4) + 1e-6 * max(-low, high)
    inside = np.abs(values) < 0.99 * min(-low, high) if not grid.is_symmetric else np.ones(len(values), bool)
    assert error[inside].max(initial=0.0) <= 0.5 * scale * (1 + 1e-4) + 1e-6 * max(-low, high)


@given(ENDS, st.sampled_from([UINT8, INT8, INT7, FLOAT8]), st.sampled_from([np.float32, np.float16]))
def test_zero_is_exact_and_scales_are_of_their_type(ends: list[float], grid: Grid, float_type: type) -> None:
    steps = steps_for(*ends, grid, float_type)
    assert steps.scale.dtype == float_type
    assert float(steps.scale) > 0
    assert grid.low <= steps.zero_point <= grid.high
    assert from_grid(to_grid(np.zeros(3, np.float32), steps, grid), steps).tolist() == [0.0, 0.0, 0.0]


def test_by_hand() -> None:
    steps = steps_for(-1.0, 4.1, UINT8)
    assert float(steps.scale) == pytest.approx(0.02)
    assert steps.zero_point == 50
    # Beyond the ends it saturates; below, ties go to the even step.
    values = np.array([-9.0, -1.0, 0.0, 0.02, 4.1, 9.0], np.float32)
    assert to_grid(values, steps, UINT8).tolist() == [0, 0, 50, 51, 255, 255]
    half = Steps(np.float32(0.5))
    assert to_grid(np.array([0.25, 0.75, -0.25, -0.75, 1e9, -1e9]), half, INT8).tolist() == [0, 2, 0, -2, 127, -127]
    assert float(steps_for(-2.0, 1.0, INT8).scale) == pytest.approx(2 / 127)
    assert float(steps_for(-2.0, 1.0, FLOAT8).scale) == pytest.approx(2 / 448)


def test_weights_have_a_scale_per_output_channel() -> None:
    weight = np.array([[[1.27, -0.635]], [[0.0, 0.0]], [[-254.0, 2.0]]], np.float32)
    steps = weight_steps(weight, INT8)
    assert steps.scale.tolist() == pytest.approx([0.01, 1.0, 2.0])
    assert to_grid(weight, steps, INT8).tolist() == [[[127, -64]], [[0, 0]], [[-127, 1]]]


def test_two_products_with_weights_of_seven_bits_fit_into_sixteen() -> None:
    largest = np.iinfo(np.int16).max
    assert 2 * UINT8.high * INT7.high <= largest < 2 * UINT8.high * INT8.high
    assert INT7.low == -INT7.high
    assert INT7.high == 2 ** (7 - 1) - 1


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("seed", range(3))
def test_quantize_linear_of_onnx_runtime_gives_the_same(kind: str, seed: int) -> None:
    grid = GRIDS[kind]
    random = np.random.default_rng(seed)
    values = (random.standard_normal(20_000) * 10 ** random.uniform(-3, 3, 20_000)).astype(np.float32)
    # Inside the range: ONNX's int8 saturates at -128, one step beyond the symmetric grid.
    values = np.clip(values, -30, 50)
    steps = steps_for(-30.0, 50.0, grid)
    element = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "float8": TensorProto.FLOAT8E4M3FN}[kind]
    zero = helper.make_tensor("zero", element, [], np.asarray(steps.zero_point, grid.dtype).tobytes(), raw=True)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
        ],
        "pair",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [len(values)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(values)])],
        [helper.make_tensor("scale", TensorProto.FLOAT, [], [float(steps.scale)]), zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["y"], {"x": values})
    assert np.array_equal(from_grid(to_grid(values, steps, grid), steps), expected)
