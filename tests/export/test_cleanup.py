"""The cleaned graph: what is in it, what is not, and how it is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from parnet_deploy.export import ExportOptions, export_bundle
from parnet_deploy.export.cleanup import pool_by_one_node
from parnet_deploy.graphs.nodes import block_of


@pytest.fixture(scope="module")
def fused_graph(checkpoint_pair, tmp_path_factory: pytest.TempPathFactory) -> onnx.GraphProto:
    folder = tmp_path_factory.mktemp("graph")
    export_bundle(checkpoint_pair("three_streams").fused, folder / "b", ExportOptions())
    return onnx.load(folder / "b" / "whole.onnx").graph


def test_nothing_that_can_be_absorbed_is_left(fused_graph: onnx.GraphProto) -> None:
    operators = {node.op_type for node in fused_graph.node}
    assert operators <= {"Conv", "Sigmoid", "Mul", "Add", "GlobalAveragePool", "Split", "Gemm", "Reshape", "Flatten"}
    # One Reshape or Flatten before the classifier; one Split, where a grouped convolution reads a shuffled tensor.
    assert sum(node.op_type in ("Reshape", "Flatten") for node in fused_graph.node) == 1
    assert sum(node.op_type == "Split" for node in fused_graph.node) == 1


def test_names_are_stage_block_op(fused_graph: onnx.GraphProto) -> None:
    names = [node.name for node in fused_graph.node]
    assert len(set(names)) == len(names)
    place = r"(stem/\d+|level[23]|stream[123]/\d+|fusion[123]|last|head)"
    assert [name for name in names if not re.fullmatch(place + r"(/[a-z0-9]+)*/[A-Z][A-Za-z]*(_\d+)?", name)] == []
    weights = [i.name for i in fused_graph.initializer]
    assert "stream1.0.conv.weight" in weights
    assert [name for name in weights if name.startswith(("net.", "val_"))] == []
    boundaries = {"stem", "level2", "level3", "stream1", "stream2", "stream3", "fusion2/finer/conv"}
    assert boundaries <= {output for node in fused_graph.node for output in node.output}


def test_longest_path_has_as_many_layers_as_the_configuration_says(fused_graph: onnx.GraphProto) -> None:
    depth: dict[str, int] = {}
    for node in fused_graph.node:
        before = max((depth.get(name, 0) for name in node.input), default=0)
        after = before + (node.op_type in ("Conv", "Gemm"))
        depth.update(dict.fromkeys(node.output, after))
    # stem 2, level2, level3, one block of stream 3, fusion3, last, head
    assert depth["logits"] == 9


def test_blocks_are_read_from_names() -> None:
    assert block_of("stream1/2/conv/Conv") == "stream1/2"
    assert block_of("fusion2/stream/gate/Conv") == "fusion2"
    assert block_of("last/Sigmoid") == "last"
    assert block_of("stem/0/Mul_2") == "stem/0"


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 2]])
def test_spatial_mean_becomes_a_pool(axes: list[int], keepdims: int) -> None:
    model = _mean_model(axes, keepdims)
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    expected = _run(model, x)
    changed = ir.from_proto(model)
    pool_by_one_node(changed)
    kinds = [node.op_type for node in changed.graph]
    assert kinds == (["GlobalAveragePool"] if keepdims else ["GlobalAveragePool", "Flatten"])
    found = _run(ir.to_proto(changed), x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("axes", [[1], [1, 2], [3], [1, 2, 3]])
def test_other_means_are_left_alone(axes: list[int]) -> None:
    model = ir.from_proto(_mean_model(axes, 1))
    pool_by_one_node(model)
    assert [node.op_type for node in model.graph] == ["ReduceMean"]


def _mean_model(axes: list[int], keepdims: int) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keepdims)],
        "mean",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 4, 5])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.array(axes, np.int64), "axes")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_unfused_graph_keeps_its_batch_norms(checkpoint_pair, tmp_path: Path) -> None:
    bundle = export_bundle(checkpoint_pair("three_streams").training, tmp_path / "b", ExportOptions())
    # One per block with a skip (1 + 2 + 1) and two per Fusion block; torch.onnx folds those behind a convolution.
    assert bundle.stages[0].node_counts["BatchNormalization"] == 4 + 2 * 2
