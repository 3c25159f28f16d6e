"""Turn a stage's ONNX file into a torch module: the operators that exported networks are made of, and no others.

Every attribute is looked at: one that is unknown, or has a value that torch's function does not stand for, is an error
that names the node. So a module computes what the file says, or is not made (onnx.ai/onnx/operators, opset 18).
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import uses_external_data
from torch import Tensor, fx, nn
from torch.nn import functional as F

from parnet_deploy.errors import EngineError

# What the exporter writes.
_OPSET = 18
_DTYPES: dict[int, torch.dtype] = {onnx.TensorProto.FLOAT: torch.float32, onnx.TensorProto.FLOAT16: torch.float16}

# A dtype and a shape, in which an axis without a fixed extent is None.
TensorType = tuple[torch.dtype, tuple[int | None, ...]]


@dataclass(frozen=True)
class TorchGraph:
    """A module that takes the tensors of `inputs` in order and returns those of `outputs` as a tuple."""

    module: fx.GraphModule
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    node_counts: Mapping[str, int]


def torch_graph_from_onnx(path: Path) -> TorchGraph:
    """Read an ONNX file as a module on the CPU; weights are buffers, in their own precision.

    Raises:
        EngineError: a file that is no ONNX model or keeps weights elsewhere, or a node that cannot be translated.
    """
    graph = _read(path).graph
    try:
        constants = {tensor.name: _array_of(tensor) for tensor in graph.initializer}
        inputs = {value.name: _type_of(value) for value in graph.input if value.name not in constants}
        outputs = {value.name: _type_of(value) for value in graph.output}
        module = _translate(graph, constants, list(inputs), list(outputs))
    except EngineError as error:
        raise EngineError(error.what, where=path) from error
    return TorchGraph(module, inputs, outputs, Counter(node.op_type for node in graph.node))


def _read(path: Path) -> onnx.ModelProto:
    # What protobuf raises for a file that it cannot parse has no base but Exception.
    try:
        model = onnx.load(path, load_external_data=False)
        outside = [tensor.name for tensor in model.graph.initializer if uses_external_data(tensor)]
        if not outside:
            # Unknown attributes, attributes of a wrong type, values that are used before they are made, weights with
            # less than they say. And a file of another kind may be parsed, as a model with nothing in it.
            onnx.checker.check_model(model)
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EngineError(f"no ONNX model that can be read ({reason})", where=path) from error
    if outside:
        raise EngineError(f"weights outside the file, such as {outside[0]!r}, are not read", where=path)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": _OPSET}:
        raise EngineError(f"operators of {opsets}, not of ai.onnx {_OPSET} alone", where=path)
    return model


def _array_of(tensor: onnx.TensorProto) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except ValueError as error:  # more numbers than the shape says, which the checker lets pass
        raise EngineError(f"weight {tensor.name!r} cannot be read ({error})") from error


def _type_of(value: onnx.ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if tensor.elem_type not in _DTYPES:
        raise EngineError(f"tensor {value.name!r} is neither float32 nor float16")
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)
    return _DTYPES[tensor.elem_type], shape


def _translate(
    graph: onnx.GraphProto, constants: Mapping[str, NDArray[Any]], inputs: Sequence[str], outputs: Sequence[str]
) -> fx.GraphModule:
    made = fx.Graph()
    values = _Values(made, constants)
    for index, name in enumerate(inputs):
        # Not by its own name: what is in the file must not become Python.
        values[name] = made.placeholder(f"input{index}")
    for proto in graph.node:
        node = _Node(proto, values)
        translate = _OPERATORS.get(proto.op_type)
        if translate is None or proto.domain not in ("", "ai.onnx"):
            raise node.refused("no such operator is known here")
        made_here = translate(node)
        results = made_here if isinstance(made_here, list) else [made_here]
        node.check_attributes()
        if len(proto.output) != len(results):
            raise node.refused(f"{len(proto.output)} outputs, not {len(results)}")
        values.update(zip(proto.output, results, strict=True))
    made.output(tuple(values[name] for name in outputs))
    made.lint()
    return fx.GraphModule(values.root, made)


class _Values(dict[str, fx.Node]):
    """What each tensor's name stands for; a weight becomes a buffer when it is first asked for."""

    def __init__(self, graph: fx.Graph, constants: Mapping[str, NDArray[Any]]) -> None:
        super().__init__()
        self.graph = graph
        self.constants = constants
        self.root = nn.Module()

    def __missing__(self, name: str) -> fx.Node:
        array = self.constants.get(name)
        if array is None or array.dtype not in (np.float32, np.float16):
            raise EngineError(f"tensor {name!r} is no float32 or float16 that the graph holds")
        buffer = f"weight{len(list(self.root.buffers()))}"
        # Copied, because the array is read-only and belongs to the file's message.
        self.root.register_buffer(buffer, torch.from_numpy(array.copy()))
        self[name] = self.graph.create_node("get_attr", buffer)
        return self[name]


class _Node:
    """An ONNX node in translation: its inputs as torch's, and its attributes as they are taken."""

    def __init__(self, proto: onnx.NodeProto, values: _Values) -> None:
        self._proto = proto
        self._values = values
        self._attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in proto.attribute}

    def refused(self, what: str) -> EngineError:
        """Return the error for something in this node that cannot be translated."""
        return EngineError(f"node {self._proto.name!r} ({self._proto.op_type}): {what}")

    def call(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        """Add a call to the module and return its result."""
        return self._values.graph.call_function(function, arguments)

    def tensor(self, index: int) -> fx.Node:
        """Return an input."""
        return self._values[self._proto.input[index]]

    def tensors(self) -> list[fx.Node]:
        """Return all inputs."""
        return [self._values[name] for name in self._proto.input]

    def has(self, index: int) -> bool:
        """Tell whether an input that may be left out is there."""
        return index < len(self._proto.input) and bool(self._proto.input[index])

    def constant(self, index: int) -> NDArray[Any]:
        """Return an input that the file must hold."""
        name = self._proto.input[index]
        if name not in self._values.constants:
            raise self.refused(f"input {name!r} is computed, and has to be a constant")
        return self._values.constants[name]

    def attribute(self, name: str, default: Any = None) -> Any:
        """Take an attribute; its type has been checked."""
        value = self._attributes.pop(name, default)
        if value is None:
            raise self.refused(f"attribute {name!r} is missing")
        return value

    def expect(self, name: str, default: Any) -> None:
        """Take an attribute that can have its default only."""
        found = self.attribute(name, default)
        if found != default:
            raise self.refused(f"attribute {name!r} is {found}, and only {default} is known here")

    def check_attributes(self) -> None:
        """Refuse what was not taken."""
        if self._attributes:
            raise self.refused(f"attribute {next(iter(self._attributes))!r} is not known here")


def _window(node: _Node, kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the stride and the padding of a window over height and width."""
    if len(kernel) != 2:
        raise node.refused(f"a window over {len(kernel)} axes, not over height and width")
    node.expect("auto_pad", b"NOTSET")
    pads = node.attribute("pads", [0, 0, 0, 0])
    if pads[:2] != pads[2:]:
        raise node.refused(f"uneven padding {pads}")
    return node.attribute("strides", [1, 1]), pads[:2]


def _average_pool(node: _Node) -> fx.Node:
    kernel = node.attribute("kernel_shape")
    stride, padding = _window(node, kernel)
    node.expect("ceil_mode", 0)
    counts_padding = bool(node.attribute("count_include_pad", 0))
    return node.call(F.avg_pool2d, node.tensor(0), kernel, stride, padding, False, counts_padding)


def _batch_normalization(node: _Node) -> fx.Node:
    node.expect("training_mode", 0)
    node.attribute("momentum", 0.9)  # of training
    scale, shift, mean, variance = (node.tensor(index) for index in range(1, 5))
    epsilon = node.attribute("epsilon", 1e-5)
    return node.call(F.batch_norm, node.tensor(0), mean, variance, scale, shift, False, 0.0, epsilon)


def _cast(node: _Node) -> fx.Node:
    target = node.attribute("to")
    if target not in _DTYPES:
        raise node.refused("a cast to another type than FLOAT or FLOAT16")
    return node.call(_to, node.tensor(0), _DTYPES[target])


def _to(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype)


def _conv(node: _Node) -> fx.Node:
    kernel = list(node.constant(1).shape[2:])
    node.expect("kernel_shape", kernel)
    stride, padding = _window(node, kernel)
    dilation, groups = node.attribute("dilations", [1, 1]), node.attribute("group", 1)
    bias = node.tensor(2) if node.has(2) else None
    return node.call(F.conv2d, node.tensor(0), node.tensor(1), bias, stride, padding, dilation, groups)


def _flatten(node: _Node) -> fx.Node:
    node.expect("axis", 1)
    return node.call(torch.flatten, node.tensor(0), 1)


def _gemm(node: _Node) -> fx.Node:
    for name, default in (("alpha", 1.0), ("beta", 1.0), ("transA", 0)):
        node.expect(name, default)
    left, right = node.tensor(0), node.tensor(1)
    if node.attribute("transB", 0):
        right = node.call(torch.t, right)
    return node.call(torch.addmm, node.tensor(2), left, right) if node.has(2) else node.call(torch.mm, left, right)


def _spatial_mean(image: Tensor) -> Tensor:
    return image.mean(tuple(range(2, image.dim())), keepdim=True)


def _reshape(node: _Node) -> fx.Node:
    shape = node.constant(1).tolist()
    # It says what a zero means.
    node.attribute("allowzero", 0)
    if 0 in shape:
        raise node.refused(f"a zero in the shape {shape}")
    return node.call(torch.reshape, node.tensor(0), shape)


def _split(node: _Node) -> list[fx.Node]:
    if node.has(1):
        raise node.refused("sizes of the parts, and only their number is known here")
    axis, count = node.attribute("axis", 0), node.attribute("num_outputs")
    parts = node.call(torch.chunk, node.tensor(0), count, axis)
    return [node.call(operator.getitem, parts, index) for index in range(count)]


def _unsqueeze(node: _Node) -> fx.Node:
    axes = node.constant(1).tolist()
    if len(axes) != 1:
        raise node.refused(f"axes {axes}, and only one at a time is known here")
    return node.call(torch.unsqueeze, node.tensor(0), axes[0])


_OPERATORS: dict[str, Callable[[_Node], fx.Node | list[fx.Node]]] = {
    "Add": lambda node: node.call(torch.add, *node.tensors()),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Concat": lambda node: node.call(torch.cat, node.tensors(), node.attribute("axis")),
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node: node.call(_spatial_mean, node.tensor(0)),
    "Mul": lambda node: node.call(torch.mul, *node.tensors()),
    "Relu": lambda node: node.call(torch.relu, node.tensor(0)),
    "Reshape": _reshape,
    "Sigmoid": lambda node: node.call(torch.sigmoid, node.tensor(0)),
    "Split": _split,
    "Transpose": lambda node: node.call(torch.permute, node.tensor(0), node.attribute("perm")),
    "Unsqueeze": _unsqueeze,
}
