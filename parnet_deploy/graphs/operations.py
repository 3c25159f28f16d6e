"""Count the arithmetic of an exported graph, so that the target side can estimate times without reading it."""

from __future__ import annotations

import onnx_ir as ir

from parnet_deploy.errors import ExportError


def count_gflop(model: ir.Model) -> float:
    """Return the GFLOP of one sample: two per multiply-accumulate of convolutions and linear layers, nothing else.

    This is how the paper counts (table 2). Pooling, gates and activations add less than one percent.

    Raises:
        ExportError: a convolution or linear layer whose shapes are not in the graph.
    """
    return 2 * sum(multiply_accumulates(node) for node in model.graph) / 1e9


def multiply_accumulates(node: ir.Node) -> int:
    """Return the multiply-accumulates of a node for one sample; of anything but a convolution or linear layer, zero.

    Raises:
        ExportError: shapes that are not in the graph.
    """
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return 0
    weight, made = node.inputs[1], node.outputs[0]
    if weight is None or weight.shape is None or made.shape is None:
        raise ExportError(f"node {node.name!r} has no known shapes, so its operations cannot be counted")
    # Each output element is a sum over one filter (Conv: all of the weight but its first axis) or over the contracted
    # axis. Only the batch, the first axis, may be unknown, and it is left out.
    if node.op_type == "Conv":
        summed = _product(weight.shape[1:])
    else:
        is_transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
        summed = _product(weight.shape[1:] if is_transposed else weight.shape[-2:-1])
    return summed * _product(made.shape[1:])


def _product(extents: tuple[int | ir.SymbolicDim, ...]) -> int:
    product = 1
    for extent in extents:
        if not isinstance(extent, int):
            raise ExportError(f"an axis of unknown length {extent} inside a convolution or linear layer")
        product *= extent
    return product
