"""Cut stages out of the one whole graph by named tensors, and write each as a checked ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from parnet_deploy.artifacts.schemas import Stage, TensorSpec
from parnet_deploy.errors import ExportError
from parnet_deploy.export.graph import OPSET

# Opset 18's own IR version; newer ones are refused by older runtimes without need.
_IR_VERSION = 8
_DTYPES = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16"}


def extract_stage(model: ir.Model, stage: Stage) -> ir.Model:
    """Return the sub-graph between a stage's tensors: the closure from its outputs back to its inputs.

    Raises:
        ExportError: a tensor that the graph does not have, or inputs that do not bound the outputs.
    """
    try:
        graph = ir.convenience.extract(model.graph, list(stage.inputs), list(stage.outputs))
    except (ValueError, KeyError) as error:
        raise ExportError(f"stage {stage.name!r} is no sub-graph of the exported network ({error})") from error
    graph.name = stage.name
    _order_initializers(graph)
    graph.opset_imports.update({"": OPSET})
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="parnet-deploy")


def _order_initializers(graph: ir.Graph) -> None:
    """List weights in the order of their first use, so that the same graph always gives the same bytes."""
    used = dict.fromkeys(value.name for node in graph for value in node.inputs if value is not None)
    weights = dict(graph.initializers)
    graph.initializers.clear()
    for name in used:
        if name in weights:
            graph.initializers.add(weights[name])


def write_stage(model: ir.Model, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a stage after onnx.checker with full shape inference.

    Raises:
        ExportError: the checker found a fault.
    """
    model.metadata_props.update(metadata)
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"onnx.checker: {error}", where=path.name) from error
    path.write_bytes(proto.SerializeToString(deterministic=True))


def tensor_spec(value: ir.Value) -> TensorSpec:
    """Describe a boundary tensor without its batch axis."""
    if value.shape is None or value.dtype not in _DTYPES:
        raise ExportError(f"tensor {value.name!r} has no known shape or dtype")
    return TensorSpec(dtype=_DTYPES[value.dtype], shape=tuple(int(extent) for extent in value.shape[1:]))  # type: ignore[arg-type]
