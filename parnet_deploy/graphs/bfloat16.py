"""Compute a bfloat16 graph where there are no bfloat16 kernels: in float32, rounded where the graph rounds.

Every bfloat16 number is a float32 number, and kernels add up in float32, so what is left of bfloat16 is the rounding of
each operator's results: a cast there and back. Engines that fuse operators round less often.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

# What the exporter writes; in float32 the operators of networks mean the same in it and in bfloat16's opset 22.
_OPSET = 18
_BFLOAT16, _FLOAT = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT


def has_bfloat16(model: onnx.ModelProto) -> bool:
    """Tell whether anything in a graph is cast to bfloat16, as the float32 image must be."""
    return any(_cast_to(node) == _BFLOAT16 for node in model.graph.node)


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph that gives the numbers of a graph which computes in bfloat16.

    Its inputs are float32, and so are its outputs, also those that were bfloat16. So it needs no opset that takes
    bfloat16, and older releases of ONNX Runtime read it.
    """
    widened = onnx.ModelProto()
    widened.CopyFrom(model)
    for entry in widened.opset_import:
        entry.version = min(entry.version, _OPSET)
    graph = widened.graph
    narrow = {tensor.name for tensor in graph.initializer if tensor.data_type == _BFLOAT16}
    for tensor in graph.initializer:
        if tensor.name in narrow:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        target = _cast_to(node)
        # All operators but a cast give what they are given.
        if target == _BFLOAT16 or (target is None and not narrow.isdisjoint(node.input)):
            narrow.update(node.output)
            nodes.extend(_rounded(node))
        else:
            nodes.append(node)
    for value in graph.output:
        if value.type.tensor_type.elem_type == _BFLOAT16:
            value.type.tensor_type.elem_type = _FLOAT
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return widened


def _cast_to(node: onnx.NodeProto) -> int | None:
    """Return what a node casts to; None if it is no cast."""
    return next((entry.i for entry in node.attribute if entry.name == "to"), None) if node.op_type == "Cast" else None


def _rounded(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    exact = onnx.NodeProto()
    exact.CopyFrom(node)
    if node.op_type == "Cast":
        exact.output[0] = f"{node.output[0]}/bits"
        yield exact
        yield helper.make_node("Cast", [exact.output[0]], list(node.output), name=f"{node.name}/widen", to=_FLOAT)
        return
    exact.output[:] = [f"{name}/exact" for name in node.output]
    yield exact
    for index, name in enumerate(node.output):
        bits = f"{name}/bits"
        yield helper.make_node("Cast", [f"{name}/exact"], [bits], name=f"{node.name}/round{index}", to=_BFLOAT16)
        yield helper.make_node("Cast", [bits], [name], name=f"{node.name}/widen{index}", to=_FLOAT)
