"""float16 in the file: casts where the precision changes, and islands where a measured difference asks for them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from parnet_deploy.errors import ExportError
from parnet_deploy.graphs.half import halve, halve_within, relative_difference
from parnet_deploy.graphs.run import run_graph

X = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)


def chain(scales: list[float]) -> ir.Model:
    """Return x -> 1x1 convolution -> 1x1 convolution -> .. with weights of the given scales, as blocks b0, b1, .."""
    rng = np.random.default_rng(1)
    nodes, weights, last = [], [], "x"
    for index, scale in enumerate(scales):
        weight = (scale * np.eye(4) + 0.01 * scale * rng.standard_normal((4, 4))).astype(np.float32)
        weights.append(onnx.numpy_helper.from_array(weight[:, :, None, None], f"b{index}.weight"))
        result = "y" if index == len(scales) - 1 else f"b{index}/Conv:0"
        nodes.append(onnx.helper.make_node("Conv", [last, f"b{index}.weight"], [result], name=f"b{index}/Conv"))
        last = result
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 6, 6]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "chain", info[:1], info[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def run(model: ir.Model, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return run_graph(model, {"x": X}, names)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_casts_stand_only_at_the_ends() -> None:
    half = halve(chain([1.0, 2.0, 0.5]))
    assert kinds(half) == ["Cast", "Conv", "Conv", "Conv", "Cast"]
    assert half.graph.outputs[0].name == "y"
    assert half.graph.outputs[0].dtype == half.graph.inputs[0].dtype == ir.DataType.FLOAT
    assert {value.dtype for value in half.graph.initializers.values()} == {ir.DataType.FLOAT16}
    assert 0 < relative_difference(run(chain([1.0, 2.0, 0.5]), ("y",))["y"], run(half, ("y",))["y"]) < 3e-3


def test_an_island_is_cast_around_not_inside() -> None:
    half = halve(chain([1.0, 2.0, 0.5, 1.0]), frozenset({"b1", "b2"}))
    assert kinds(half) == ["Cast", "Conv", "Cast", "Conv", "Conv", "Cast", "Conv", "Cast"]
    dtypes = {value.name: value.dtype for value in half.graph.initializers.values()}
    assert dtypes["b1.weight"] == dtypes["b2.weight"] == ir.DataType.FLOAT
    assert dtypes["b0.weight.half"] == dtypes["b3.weight.half"] == ir.DataType.FLOAT16


def test_the_source_graph_is_untouched() -> None:
    model = chain([1.0, 1.0])
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    halve(model, frozenset({"b1"}))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_no_island_where_none_is_needed() -> None:
    result = halve_within(chain([1.0, 2.0, 0.5]), run, "y", tolerance=5e-3)
    assert result.islands == ()
    assert result.relative < 5e-3


def test_an_overflow_becomes_an_island() -> None:
    # After b1 the numbers are near 1e6, beyond float16's 65504; b2 brings them back.
    model = chain([1.0, 1e6, 1e-6, 1.0])
    assert not np.isfinite(run(halve(model), ("y",))["y"]).all()
    result = halve_within(model, run, "y", tolerance=5e-3)
    assert set(result.islands) == {"b1", "b2"}
    assert result.relative < 5e-3


def test_a_tolerance_out_of_reach_is_refused() -> None:
    # With every block an island the graph is the float32 one: no difference is left, and none is below zero.
    with pytest.raises(ExportError, match="even with islands"):
        halve_within(chain([1.0, 1.0]), run, "y", tolerance=-1.0)


def test_relative_difference_by_hand() -> None:
    assert relative_difference(np.array([1.0, -4.0]), np.array([1.5, -4.0])) == 0.125
    assert relative_difference(np.zeros(2), np.array([0.0, 0.25])) == 0.25
    assert relative_difference(np.ones(2), np.array([np.nan, 1.0])) == float("inf")
