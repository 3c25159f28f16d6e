"""Which layers of a graph can be quantised, and which tensors that takes: a pure function of the graph and the form."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import onnx_ir as ir

from parnet_deploy.artifacts.quantization import LayerKind, Target, WeightBits
from parnet_deploy.artifacts.schemas import Precision
from parnet_deploy.errors import EXPORT_AGAIN, QuantizationError
from parnet_deploy.graphs.nodes import block_of
from parnet_deploy.graphs.operations import multiply_accumulates
from parnet_deploy.quantize.grids import FLOAT8, INT7, INT8, UINT8, Grid


@dataclass(frozen=True)
class Form:
    """The Q/DQ that a target's engines turn into integer arithmetic.

    Weights are symmetric int8 (of 8 bits or 7) or float8, per output channel everywhere. `quantizes_results`: a layer's
    own result is quantised too. `quantizes_bias`: the bias is int32 in units of the product of input and weight scale.
    """

    activations: Grid
    weights: Grid
    quantizes_results: bool = False
    quantizes_bias: bool = False


# ONNX Runtime has integer convolutions only where the result is quantised as well and the bias is int32; OpenVINO takes
# that too, but is faster, and more accurate, where the result goes on in float. TensorRT takes zero points of 0 only,
# and no bias but a float one (docs/quantization.md).
FORMS: dict[tuple[Target, Precision], Form] = {
    ("cpu", "int8"): Form(UINT8, INT8, quantizes_results=True, quantizes_bias=True),
    ("openvino", "int8"): Form(UINT8, INT8),
    ("tensorrt", "int8"): Form(INT8, INT8),
    ("tensorrt", "fp8"): Form(FLOAT8, FLOAT8),
}


def form_for(target: Target, precision: Precision, weight_bits: WeightBits = 8) -> Form:
    """Return the form of a target.

    Raises:
        QuantizationError: the target's engines do not compute in the precision, or nothing is gained by 7 bits.
    """
    if (target, precision) not in FORMS:
        taken = ", ".join(f"{name} {found}" for name, found in FORMS)
        raise QuantizationError(f"target {target!r} has no {precision}", remedy=f"there are: {taken}")
    form = FORMS[target, precision]
    if weight_bits == 8:
        return form
    if target == "tensorrt":
        raise QuantizationError(
            "weights of 7 bits are for processors without VNNI; target 'tensorrt' is GPUs, whose sums do not saturate",
            remedy="leave out --weight-bits",
        )
    return replace(form, weights=INT7)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer with constant weights, and the tensors that it reads and makes."""

    name: str
    node: str
    kind: LayerKind
    block: str
    source: str
    result: str
    weights: int
    operations: int
    depth: int


def find_layers(model: ir.Model) -> tuple[Layer, ...]:
    """Return the layers of a graph in its order; `depth` counts the layers on the longest path up to each.

    Raises:
        QuantizationError: there are none.
    """
    depths: dict[ir.Value, int] = {}
    found = []
    for node in model.graph:
        depth = max((depths.get(value, 0) for value in node.inputs if value is not None), default=0)
        if _has_weights(node):
            depth += 1
            found.append(_describe(node, depth))
        depths.update(dict.fromkeys(node.outputs, depth))
    layers = tuple(found)
    if not layers:
        raise QuantizationError("the graph has no convolution or linear layer to quantise", remedy=EXPORT_AGAIN)
    return layers


def _has_weights(node: ir.Node) -> bool:
    return node.op_type in ("Conv", "Gemm") and node.inputs[1] is not None and node.inputs[1].is_initializer()


def _describe(node: ir.Node, depth: int) -> Layer:
    source, weight, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert source is not None
    assert weight is not None
    name = (node.name or "").removesuffix(f"/{node.op_type}")
    return Layer(
        name=name,
        node=node.name or "",
        kind="linear" if node.op_type == "Gemm" else "gate" if "gate" in name.split("/") else "convolution",
        block=block_of(name),
        source=source.name or "",
        result=result.name or "",
        weights=_count(weight),
        operations=2 * multiply_accumulates(node),
        depth=depth,
    )


def _count(weight: ir.Value) -> int:
    count = 1
    for extent in weight.shape or ():
        count *= int(extent)  # type: ignore[arg-type]
    return count


@dataclass(frozen=True)
class Placement:
    """The layers that are quantised, and the float tensors that get a Q/DQ pair, in the order of the graph."""

    layers: tuple[Layer, ...]
    tensors: tuple[str, ...]


def place_qdq(
    layers: tuple[Layer, ...], form: Form, outputs: Collection[str], float_layers: Collection[str] = ()
) -> Placement:
    """Return what is quantised if the named layers stay in float.

    A tensor that a quantised layer reads is read quantised by all its readers: the product of a skip and the pool of a
    gate, and also a layer that stays in float beside it. So it exists in one form only, in memory and between stages.
    """
    quantized = tuple(layer for layer in layers if layer.name not in float_layers)
    tensors = [layer.source for layer in quantized]
    if form.quantizes_results:
        tensors += [layer.result for layer in quantized if layer.result not in outputs]
    return Placement(quantized, tuple(dict.fromkeys(tensors)))
