"""Write quantisation into a graph: integer weights, and Q/DQ pairs around the tensors that are quantised.

x -> Conv(x, w)     becomes     x -> QuantizeLinear -> DequantizeLinear -> Conv(.., DequantizeLinear(integers of w))
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from parnet_deploy.quantize.grids import Array, FloatType, Grid, Steps, to_grid, weight_steps
from parnet_deploy.quantize.layers import Form, Layer, Placement

# The first in which Q and DQ take float16 and float8.
OPSET = 19

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes the numbers of a quantised graph.

    `steps` are those of each quantised tensor, `shifts` what is added to the bias of a layer, float32 [channels].
    Scales are numbers of `float_type`.
    """

    form: Form
    steps: Mapping[str, Steps]
    shifts: Mapping[str, Array] = field(default_factory=dict)
    float_type: FloatType = np.float32


def insert_qdq(model: ir.Model, placement: Placement, recipe: Recipe, boundaries: Collection[str] = ()) -> ir.Model:
    """Return a quantised copy of a float32 graph.

    Of the tensors in `boundaries` that are quantised, the integers take the name: they are what crosses between stages.
    """
    quantized: ir.Model = model.clone()
    graph = quantized.graph
    graph.opset_imports[""] = OPSET
    nodes = {node.name: node for node in graph}
    for layer in placement.layers:
        _quantize_layer(graph, nodes[layer.node], layer, recipe)
    values = {value.name: value for value in (*graph.inputs, *(made for node in graph for made in node.outputs))}
    for name in placement.tensors:
        value = values[name]
        readers = [(use.node, use.idx) for use in value.uses()]
        integers, dequantized = _add_pair(graph, value, recipe.steps[name], recipe.form.activations)
        for node, index in readers:
            node.replace_input_with(index, dequantized)
        if name in boundaries and recipe.form.activations.is_integer:
            value.name, integers.name = f"{name}/float", name
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return quantized


def _quantize_layer(graph: ir.Graph, node: ir.Node, layer: Layer, recipe: Recipe) -> None:
    """Replace a layer's weights, and where the form says so its bias, by integers and a node that dequantises them."""
    weight, bias = _constant(node.inputs[1]), _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    assert weight is not None
    if layer.name in recipe.shifts:
        bias = recipe.shifts[layer.name] + (0 if bias is None else bias)
    steps = weight_steps(weight, recipe.form.weights, recipe.float_type)
    if recipe.form.quantizes_bias and bias is not None:
        steps = _widened_for(bias, steps, recipe.steps[layer.source])
    integers = to_grid(weight, steps, recipe.form.weights)
    node.replace_input_with(1, _add_dequantized(graph, node, "weight", integers, steps))
    if bias is None:
        return
    if recipe.form.quantizes_bias:
        product = Steps((recipe.steps[layer.source].scale * steps.scale).astype(np.float32))
        counts = np.rint(bias.astype(np.float64) / product.scale).astype(np.int32)
        value = _add_dequantized(graph, node, "bias", counts, product)
    elif layer.name in recipe.shifts:
        value = _add_constant(graph, f"{node.name}/bias", bias.astype(np.float32))
    else:
        return
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, value)


def _widened_for(bias: Array, steps: Steps, source: Steps) -> Steps:
    """Raise the scales of channels whose weights are next to nothing, so that their bias fits into an int32."""
    least = np.abs(bias) / (float(source.scale) * (_INT32.max // 2))
    return Steps(np.maximum(steps.scale, least.astype(steps.scale.dtype)))


def _constant(value: ir.Value | None) -> Array | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else np.asarray(tensor.numpy())


def _add_constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(np.asarray(array), name=name)
    shape = ir.Shape(np.shape(array))
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _add_steps(graph: ir.Graph, name: str, steps: Steps, dtype: np.dtype[Any]) -> list[ir.Value]:
    zeros = np.full(steps.scale.shape, steps.zero_point, dtype)
    scale = _add_constant(graph, f"{name}/scale", steps.scale.astype(np.float32))
    return [scale, _add_constant(graph, f"{name}/zero_point", zeros)]


def _add_dequantized(graph: ir.Graph, reader: ir.Node, what: str, integers: Array, steps: Steps) -> ir.Value:
    """Add constant integers and, before their reader, the node that dequantises them per channel; return its result."""
    name = f"{reader.name}/{what}"
    source = _add_constant(graph, name, integers)
    inputs = [source, *_add_steps(graph, name, steps, integers.dtype)]
    node = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}/DequantizeLinear")
    made = node.outputs[0]
    made.name, made.type, made.shape = f"{name}/dequantized", ir.TensorType(ir.DataType.FLOAT), source.shape
    graph.insert_before(reader, node)
    return made


def _add_pair(graph: ir.Graph, value: ir.Value, steps: Steps, grid: Grid) -> tuple[ir.Value, ir.Value]:
    """Add Q and DQ behind the node that makes a tensor; return the integers and the dequantised tensor."""
    name = value.name
    parameters = _add_steps(graph, f"{name}", steps, grid.dtype)
    quantize = ir.node("QuantizeLinear", [value, *parameters], name=f"{name}/QuantizeLinear")
    integers = quantize.outputs[0]
    dequantize = ir.node("DequantizeLinear", [integers, *parameters], name=f"{name}/DequantizeLinear")
    dequantized = dequantize.outputs[0]
    integers.name, dequantized.name = f"{name}/quantized", f"{name}/dequantized"
    integers.type = ir.TensorType(ir.DataType.from_numpy(grid.dtype))
    dequantized.type = ir.TensorType(ir.DataType.FLOAT)
    integers.shape = dequantized.shape = value.shape
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    return integers, dequantized
