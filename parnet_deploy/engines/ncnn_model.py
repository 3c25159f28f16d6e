"""Write the graph of a fused network as an ncnn model: layers as text (`.param`), weights as bytes (`.bin`).

The formats are ncnn's own (github.com/Tencent/ncnn/wiki, "param and model file structure"; parameters of each layer:
"operation-param-weight-table"). ncnn has no batch axis: a model is of one sample. Its conversion tool needs torch; a
fused ParNet has ten operators, whose attributes are checked here one by one.

A tensor [C, 1, 1], a number for each channel, is a vector in ncnn: global pooling makes one, convolutions of 1x1 on it
are linear layers, and beside a map it is broadcast over the map.

A convolution in groups, or one whose weights are large, becomes several and a concatenation: each can then have the
Winograd transform that suits it, and weights are transformed part by part, so that few of them are there twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from parnet_deploy.engines.base import FOREIGN_GRAPH
from parnet_deploy.engines.ncnn_layers import Layer, NcnnModel, Params, dense_matrix, parts_of, write_model
from parnet_deploy.engines.ncnn_winograd import F23_HINT_SIZE, MEMORY_FACTOR, WinogradLayer, layers_with_f43
from parnet_deploy.errors import EXPORT_AGAIN, EngineError

# What stands before weights that are plain float32.
_FLOAT32 = b"\0\0\0\0"
_RELU, _SIGMOID = 1, 4
_ADD, _MUL = 0, 2
_SHAPE_HINT = -23330
_UNFUSED_REMEDY = "fuse the checkpoint and export it again: parnet-deploy fuse CKPT -o OUT"


def convert_to_ncnn(onnx_path: Path, memory_factor: float = MEMORY_FACTOR) -> NcnnModel:
    """Return the ncnn model of a stage's ONNX file; blobs have the names of the ONNX tensors.

    Loaded, its weights take up to `memory_factor` times what they take in the file, for the sake of speed.

    Raises:
        EngineError: not an ONNX file, or an operator or attribute that a fused network does not have, with the node's
            name.
    """
    try:
        graph = onnx.load_model(str(onnx_path), load_external_data=False).graph
    except Exception as error:
        raise EngineError(f"not an ONNX file ({error})", where=onnx_path, remedy=EXPORT_AGAIN) from error
    return _Converter(graph, onnx_path, memory_factor).convert()


class _Converter:
    """One pass over the nodes, in their order, which is topological."""

    def __init__(self, graph: onnx.GraphProto, path: Path, memory_factor: float) -> None:
        self._graph = graph
        self._path = path
        self._memory_factor = memory_factor
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._uses.update(value.name for value in graph.output)
        self._makers = {name: node for node in graph.node for name in node.output}
        self._layers: list[Layer] = []
        # Tensors that another name stands for, because the node that made them does nothing in ncnn.
        self._aliases: dict[str, str] = {}
        self._kept: set[str] = set()
        self._vectors: set[str] = set()
        self._pixels = _pixels_of(graph)
        self._winograd: dict[str, WinogradLayer] = {}

    def convert(self) -> NcnnModel:
        for value in self._graph.input:
            self._layers.append(Layer("Input", value.name, [], [value.name]))
            if [dim.dim_value for dim in value.type.tensor_type.shape.dim[2:]] == [1, 1]:
                self._vectors.add(value.name)
        for node in self._graph.node:
            rule = _RULES.get(node.op_type)
            if rule is None:
                raise self._refusal(node, "is no operator of a fused network", remedy=_UNFUSED_REMEDY)
            rule(self, node)
        self._name_outputs()
        self._choose_transforms()
        return write_model(self._layers, {value.name for value in self._graph.output})

    def _refusal(self, node: onnx.NodeProto, why: str, remedy: str = FOREIGN_GRAPH) -> EngineError:
        return EngineError(f"node {node.name!r} ({node.op_type}) {why}", where=self._path, remedy=remedy)

    def _attributes(self, node: onnx.NodeProto, **known: Any) -> dict[str, Any]:
        """Return a node's attributes over the defaults; one that is not known is refused."""
        found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        for name in found:
            if name not in known:
                raise self._refusal(node, f"has the attribute {name!r}, which is not understood")
        return {**known, **found}

    def _constant(self, node: onnx.NodeProto, index: int) -> NDArray[np.float32]:
        name = node.input[index]
        if name not in self._constants:
            raise self._refusal(node, f"computes its input {name!r}, which has to be a constant")
        return np.asarray(self._constants[name], np.float32)

    def _blob(self, node: onnx.NodeProto, name: str) -> str:
        """Return the blob of a tensor; a constant becomes a layer of its own the first time."""
        name = self._aliases.get(name, name)
        if name in self._constants and name not in self._kept:
            self._kept.add(name)
            self._layers.append(self._memory_data(node, name))
        return name

    def _memory_data(self, node: onnx.NodeProto, name: str) -> Layer:
        values = np.asarray(self._constants[name], np.float32)
        shape = values.shape[1:] if values.ndim == 4 and values.shape[0] == 1 else values.shape
        if len(shape) == 3 and shape[1:] == (1, 1):
            params: Params = {0: shape[0]}
            self._vectors.add(name)
        elif len(shape) == 3:
            params = {0: shape[2], 1: shape[1], 2: shape[0]}
        else:
            raise self._refusal(node, f"has a constant of shape {list(values.shape)}")
        return Layer("MemoryData", name, [], [name], params, (values.tobytes(),))

    def _add(self, kind: str, node: onnx.NodeProto, inputs: list[str], params: Params, *weights: bytes) -> None:
        blobs = [self._blob(node, name) for name in inputs]
        if kind == "Pooling" or all(blob in self._vectors for blob in blobs):
            self._vectors.update(node.output)
        self._layers.append(Layer(kind, node.output[0], blobs, list(node.output), params, weights))

    def _only_reader(self, name: str, op_type: str) -> onnx.NodeProto | None:
        """Return the node of a type that alone reads a tensor."""
        if self._uses[name] != 1:
            return None
        return next((node for node in self._graph.node if name in node.input and node.op_type == op_type), None)

    def convolution(self, node: onnx.NodeProto) -> None:
        found = self._attributes(
            node, group=1, kernel_shape=None, strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], auto_pad=b"NOTSET"
        )
        weight = self._constant(node, 1)
        filters, _, height, width = weight.shape
        if found["dilations"] != [1, 1] or found["auto_pad"] != b"NOTSET":
            raise self._refusal(node, "is dilated, or pads by itself")
        if self._aliases.get(node.input[0], node.input[0]) in self._vectors:
            if weight.shape[2:] != (1, 1):
                raise self._refusal(node, "is a convolution of single pixels with a kernel beyond them")
            self._linear(node, dense_matrix(weight[:, :, 0, 0], found["group"]), self._merged_activation(node))
            return
        top, left, bottom, right = found["pads"]
        params: Params = {1: width, 11: height, 3: found["strides"][1], 13: found["strides"][0]}
        params |= {4: left, 14: top, 15: right, 16: bottom, **self._merged_activation(node)}
        bias = self._constant(node, 2) if len(node.input) > 2 else None
        sources = self._groups_of(self._blob(node, node.input[0]), weight.shape[1], found["group"])
        parts = parts_of(weight, found["group"])
        output = node.output[0]
        names = [f"{output}/{index}" for index in range(len(parts))] if len(parts) > 1 else [output]
        for name, part in zip(names, parts, strict=True):
            source = sources[part.start * found["group"] // filters]
            self._convolve(name, source, params, weight[part], None if bias is None else bias[part])
            if (height, width) == (3, 3) and found["strides"] == [1, 1]:
                pixels = self._pixels.get(output, 0)
                self._winograd[name] = WinogradLayer(name, weight[part].nbytes, pixels)
        if len(names) > 1:
            self._layers.append(Layer("Concat", output, names, [output], {0: 0}))

    def _groups_of(self, blob: str, width: int, groups: int) -> list[str]:
        """Return the blobs of each group's channels, `width` of them."""
        if groups == 1:
            return [blob]
        blobs = [f"{blob}/group{index}/{len(self._layers)}" for index in range(groups)]
        sizes = ",".join([str(width)] * groups)
        self._layers.append(Layer("Slice", blobs[0], [blob], blobs, {-23300: f"{groups},{sizes}", 1: 0}))
        return blobs

    def _convolve(
        self, name: str, source: str, params: Params, weight: NDArray[np.float32], bias: NDArray[np.float32] | None
    ) -> None:
        weights = [_FLOAT32, weight.tobytes(), *([] if bias is None else [bias.tobytes()])]
        own: Params = {0: weight.shape[0], 5: int(bias is not None), 6: weight.size}
        self._layers.append(Layer("Convolution", name, [source], [name], {**own, **params}, tuple(weights)))

    def _choose_transforms(self) -> None:
        """Hint at a small map where a convolution shall use F(2,3)."""
        model_bytes = sum(len(data) for layer in self._layers for data in layer.weights)
        with_f43 = layers_with_f43(tuple(self._winograd.values()), model_bytes, self._memory_factor)
        for layer in self._layers:
            if layer.name in self._winograd and layer.name not in with_f43:
                layer.params[_SHAPE_HINT] = f"4,3,{F23_HINT_SIZE},{F23_HINT_SIZE},{layer.params[0]}"

    def _merged_activation(self, node: onnx.NodeProto) -> Params:
        """Return the parameter by which a convolution applies the activation that alone reads it, if there is one."""
        for op_type, code in (("Relu", _RELU), ("Sigmoid", _SIGMOID)):
            reader = self._only_reader(node.output[0], op_type)
            if reader is not None:
                self._aliases[reader.output[0]] = node.output[0]
                return {9: code}
        return {}

    def activation(self, node: onnx.NodeProto) -> None:
        if node.output[0] in self._aliases or self._is_half_of_swish(node):
            return
        self._attributes(node)
        self._add({"Relu": "ReLU", "Sigmoid": "Sigmoid"}[node.op_type], node, [node.input[0]], {})

    def _is_half_of_swish(self, node: onnx.NodeProto) -> bool:
        product = self._only_reader(node.output[0], "Mul")
        return node.op_type == "Sigmoid" and product is not None and node.input[0] in product.input

    def binary(self, node: onnx.NodeProto) -> None:
        self._attributes(node)
        first, second = node.input
        for value, gate in ((first, second), (second, first)):
            maker = self._makers.get(gate)
            is_swish = node.op_type == "Mul" and maker is not None and maker.op_type == "Sigmoid"
            if is_swish and maker is not None and maker.input[0] == value and self._is_half_of_swish(maker):
                self._add("Swish", node, [value], {})
                return
        self._add("BinaryOp", node, [first, second], {0: _MUL if node.op_type == "Mul" else _ADD})

    def pooling(self, node: onnx.NodeProto) -> None:
        self._attributes(node)
        self._add("Pooling", node, [node.input[0]], {0: 1, 4: 1})

    def split(self, node: onnx.NodeProto) -> None:
        found = self._attributes(node, axis=0, num_outputs=None)
        sizes = self._constants[node.input[1]].tolist() if len(node.input) > 1 else None
        if found["axis"] != 1 or (sizes is None and found["num_outputs"] is None):
            raise self._refusal(node, "does not split channels into known parts")
        # -233: all parts alike.
        parts = ",".join(map(str, sizes if sizes is not None else [-233] * len(node.output)))
        self._add("Slice", node, [node.input[0]], {-23300: f"{len(node.output)},{parts}", 1: 0})

    def cast(self, node: onnx.NodeProto) -> None:
        """Leave a cast to float32 out: that is what every blob is."""
        if self._attributes(node, to=None, saturate=1)["to"] != onnx.TensorProto.FLOAT:
            raise self._refusal(node, "casts to something else than float32", remedy="export with --precision fp32")
        self._aliases[node.output[0]] = self._aliases.get(node.input[0], node.input[0])

    def flatten(self, node: onnx.NodeProto) -> None:
        if self._attributes(node, axis=1)["axis"] != 1:
            raise self._refusal(node, "flattens more than a sample")
        self._add("Flatten", node, [node.input[0]], {})

    def linear(self, node: onnx.NodeProto) -> None:
        found = self._attributes(node, alpha=1.0, beta=1.0, transA=0, transB=0)
        if (found["alpha"], found["beta"], found["transA"]) != (1.0, 1.0, 0):
            raise self._refusal(node, "is no plain linear layer")
        weight = self._constant(node, 1)
        self._linear(node, weight if found["transB"] else weight.T)

    def _linear(self, node: onnx.NodeProto, weight: NDArray[np.float32], activation: Params | None = None) -> None:
        params: Params = {0: weight.shape[0], 1: int(len(node.input) > 2), 2: weight.size, **(activation or {})}
        biases = [self._constant(node, 2).tobytes()] if len(node.input) > 2 else []
        self._add("InnerProduct", node, [node.input[0]], params, _FLOAT32, weight.tobytes(), *biases)

    def _name_outputs(self) -> None:
        """Let blobs that the graph gives out have its names, also where another node's blob stands for them."""
        renamed = {self._aliases[value.name]: value.name for value in self._graph.output if value.name in self._aliases}
        for layer in self._layers:
            layer.inputs = [renamed.get(name, name) for name in layer.inputs]
            layer.outputs = [renamed.get(name, name) for name in layer.outputs]


_RULES: Mapping[str, Callable[[_Converter, onnx.NodeProto], None]] = {
    "Conv": _Converter.convolution,
    "Relu": _Converter.activation,
    "Sigmoid": _Converter.activation,
    "Add": _Converter.binary,
    "Mul": _Converter.binary,
    "GlobalAveragePool": _Converter.pooling,
    "Split": _Converter.split,
    "Cast": _Converter.cast,
    "Flatten": _Converter.flatten,
    "Gemm": _Converter.linear,
}


def _pixels_of(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the pixels of every map whose size the file tells."""
    pixels = {}
    for value in (*graph.value_info, *graph.output):
        extents = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(extents) == 4:
            pixels[value.name] = extents[2] * extents[3]
    return pixels
