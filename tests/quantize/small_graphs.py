"""Small float32 graphs with the operators of a fused ParNet, built by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

SIDE = 6


def model_of(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], channels: int, outputs: dict[str, list[int]]
) -> ir.Model:
    """Return a graph of `image` [1, channels, 6, 6] with shapes inferred."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def one_convolution(weight: np.ndarray, bias: np.ndarray | None) -> ir.Model:
    """Return image -> 3x3 convolution -> logits [1, out, 6, 6], as layer `only/conv`."""
    inputs = ["image", "weight"] + ([] if bias is None else ["bias"])
    node = helper.make_node("Conv", inputs, ["logits"], name="only/conv/Conv", pads=[1, 1, 1, 1])
    weights = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return model_of([node], weights, weight.shape[1], {"logits": [1, weight.shape[0], SIDE, SIDE]})


def skip_network(seed: int = 0, channels: int = 4, classes: int = 3) -> ir.Model:
    """Return a stem convolution, a block with a gated skip, a pool and a linear layer.

    Layers: stem/conv, block/0/gate, block/0/conv, head/fc. The tensor `stem` is read by the convolution, the skip's
    product and the gate's pool.
    """
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return random.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))

    weights = {
        "stem.weight": draw(channels, 3, 3, 3),
        "stem.bias": draw(channels),
        "gate.weight": draw(channels, channels, 1, 1),
        "conv.weight": draw(channels, channels, 3, 3),
        "conv.bias": draw(channels),
        "fc.weight": draw(classes, channels),
        "fc.bias": draw(classes),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "stem.weight", "stem.bias"], ["stem/c"], name="stem/conv/Conv", **pads),
        helper.make_node("Sigmoid", ["stem/c"], ["stem/s"], name="stem/act/Sigmoid"),
        helper.make_node("Mul", ["stem/c", "stem/s"], ["stem"], name="stem/act/Mul"),
        helper.make_node("GlobalAveragePool", ["stem"], ["pool"], name="block/0/GlobalAveragePool"),
        helper.make_node("Conv", ["pool", "gate.weight"], ["gate"], name="block/0/gate/Conv"),
        helper.make_node("Sigmoid", ["gate"], ["gated"], name="block/0/Sigmoid"),
        helper.make_node("Conv", ["stem", "conv.weight", "conv.bias"], ["conv"], name="block/0/conv/Conv", **pads),
        helper.make_node("Mul", ["stem", "gated"], ["skip"], name="block/0/Mul"),
        helper.make_node("Add", ["conv", "skip"], ["block"], name="block/0/Add"),
        helper.make_node("GlobalAveragePool", ["block"], ["features"], name="head/GlobalAveragePool"),
        helper.make_node("Flatten", ["features"], ["flat"], name="head/Flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="head/fc/Gemm", transB=1),
    ]
    return model_of(nodes, weights, 3, {"logits": [1, classes]})


def images(count: int, channels: int = 3, seed: int = 1) -> np.ndarray:
    """Return images float32 [count, channels, 6, 6]."""
    return np.random.default_rng(seed).standard_normal((count, channels, SIDE, SIDE)).astype(np.float32)
