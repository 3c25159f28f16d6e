"""bfloat16 without its kernels: every result is rounded to the bit, also where ONNX Runtime optimises."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from parnet_deploy.graphs.bfloat16 import has_bfloat16, in_float32
from parnet_deploy.graphs.half import BFLOAT16, halve, halve_within
from parnet_deploy.graphs.run import run_graph
from tests.graphs.test_half import X, chain, kinds, run


def rounded(array: np.ndarray) -> np.ndarray:
    """Round to bfloat16, to nearest even, and widen again."""
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def expected_of(model: ir.Model, x: np.ndarray, islands: frozenset[str] = frozenset()) -> dict[str, np.ndarray]:
    """Compute a chain of 1x1 convolutions by hand."""
    found, last = {}, x
    for node in model.graph:
        block, weight = (node.name or "").split("/")[0], node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        kernel = weight.const_value.numpy()[:, :, 0, 0]
        is_wide = block in islands
        product = np.einsum("oc,nchw->nohw", kernel if is_wide else rounded(kernel), last if is_wide else rounded(last))
        last = product if is_wide else rounded(product)
        found[str(node.outputs[0].name)] = last
    return found


@pytest.mark.parametrize("islands", [frozenset(), frozenset({"b1"}), frozenset({"b0", "b3"})])
def test_every_result_is_rounded_to_the_bit(islands: frozenset[str]) -> None:
    model = chain([1.0, 2.0, 0.5, 1.0])
    narrow = halve(model, islands, BFLOAT16)
    names = tuple(str(node.outputs[0].name) for node in model.graph)
    expected, found = expected_of(model, X, islands), run(narrow, names)
    assert all(array.dtype == np.float32 for array in found.values())
    for name in names:
        # Of 144 numbers hardly one lies so near the middle of two that the order of a sum of four decides.
        assert (expected[name] == found[name]).mean() > 0.99
        np.testing.assert_allclose(found[name], expected[name], rtol=2**-7)
    assert np.abs(run(model, ("y",))["y"] - found["y"]).max() > 1e-4


def test_the_file_itself_is_bfloat16() -> None:
    narrow = halve(chain([1.0, 2.0, 0.5]), half_type=BFLOAT16)
    assert kinds(narrow) == ["Cast", "Conv", "Conv", "Conv", "Cast"]
    assert narrow.graph.opset_imports[""] == 22
    assert {value.dtype for value in narrow.graph.initializers.values()} == {ir.DataType.BFLOAT16}
    proto = ir.to_proto(narrow)
    onnx.checker.check_model(proto, full_check=True)
    assert has_bfloat16(proto)
    assert {tensor.data_type for tensor in in_float32(proto).graph.initializer} == {TensorProto.FLOAT}
    assert not has_bfloat16(ir.to_proto(halve(chain([1.0]))))


def test_what_crosses_between_stages_is_widened_and_loses_nothing() -> None:
    model = chain([1.0, 2.0, 0.5])
    cut = halve(model, half_type=BFLOAT16, boundaries={"b0/Conv:0"})
    assert kinds(cut) == ["Cast", "Conv", "Cast", "Cast", "Conv", "Conv", "Cast"]
    between = next(value for node in cut.graph for value in node.outputs if value.name == "b0/Conv:0")
    assert between.dtype == ir.DataType.FLOAT
    whole = halve(model, half_type=BFLOAT16)
    assert np.array_equal(run(cut, ("y",))["y"], run(whole, ("y",))["y"])


def test_the_range_of_float32_needs_no_islands() -> None:
    result = halve_within(chain([1.0, 1e6, 1e-6, 1.0]), run, "y", 4e-2, BFLOAT16)
    assert result.islands == ()
    assert 1e-3 < result.relative < 4e-2


def test_operators_of_several_outputs_and_outputs_in_bfloat16() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], "cast", to=TensorProto.BFLOAT16),
        helper.make_node("Mul", ["x16", "factor"], ["scaled"], "scale"),
        helper.make_node("Split", ["scaled"], ["first", "second"], "split", axis=1, num_outputs=2),
        helper.make_node("Add", ["first", "second"], ["y"], "add"),
    ]
    bits = np.array([1.7], ml_dtypes.bfloat16).tobytes()
    factor = helper.make_tensor("factor", TensorProto.BFLOAT16, [1], bits, raw=True)
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, [1, 2, 6, 6])],
        [factor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    found = run_graph(ir.from_proto(onnx.shape_inference.infer_shapes(model)), {"x": X}, ("second", "y"))
    scaled = rounded(rounded(X) * rounded(np.float32([1.7])))
    assert np.array_equal(found["second"], scaled[:, 2:])
    assert np.array_equal(found["y"], rounded(scaled[:, :2] + scaled[:, 2:]))
