"""Cut stages out of the one whole graph by named tensors, and write each as a checked ONNX file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from parnet_deploy.artifacts.schemas import BundleStage, FileRecord, Stage, TensorSpec
from parnet_deploy.errors import ExportError
from parnet_deploy.graphs.nodes import node_counts
from parnet_deploy.graphs.operations import count_gflop
from parnet_deploy.graphs.run import run_graph

# What the exporter writes natively: nothing is lost in a conversion, and TensorRT 10, 11 and ORT all read it.
OPSET = 18

# An opset's own IR version; newer ones are refused by older runtimes without need.
_IR_VERSIONS = {18: 8, 19: 9, 22: 10}
_DTYPES = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "uint8",
}

Arrays = dict[str, NDArray[Any]]


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
    opset = model.opset_imports.get("", OPSET)
    graph.opset_imports.update({"": opset})
    return ir.Model(graph, ir_version=_IR_VERSIONS[opset], producer_name="parnet-deploy")


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


@dataclass(frozen=True)
class WrittenStages:
    """Stages on disk, what their boundary tensors are, and the numbers that each stage made of those before it."""

    stages: tuple[BundleStage, ...]
    tensors: dict[str, TensorSpec]
    made: Arrays


def write_stages(
    whole: ir.Model,
    stages: Sequence[Stage],
    folder: Path,
    feeds: Arrays,
    metadata: Mapping[str, str],
    progress: Callable[[str], None],
) -> WrittenStages:
    """Cut, write and run every stage of a graph, each fed with what the stages before it really made.

    Raises:
        ExportError: a stage that is no sub-graph of it, that the checker refuses or that ONNX Runtime cannot run.
    """
    ready = dict(feeds)
    written: list[BundleStage] = []
    tensors: dict[str, TensorSpec] = {}
    for stage in stages:
        progress(f"writing {stage.name}")
        model = extract_stage(whole, stage)
        tensors |= {value.name: tensor_spec(value) for value in (*model.graph.inputs, *model.graph.outputs)}  # type: ignore[misc]
        path = folder / f"{stage.name}.onnx"
        write_stage(model, path, {**metadata, "parnet_deploy.stage": stage.name})
        ready |= run_graph(model, {name: ready[name] for name in stage.inputs}, stage.outputs)
        written.append(
            BundleStage(
                **stage.model_dump(),
                file=FileRecord.of(path),
                node_counts=node_counts(model),
                gflop=count_gflop(model),
            )
        )
    made = {name: ready[name] for stage in stages for name in stage.outputs}
    return WrittenStages(tuple(written), tensors, made)


def tensor_spec(value: ir.Value) -> TensorSpec:
    """Describe a boundary tensor without its batch axis; one of integers with the numbers that they stand for."""
    if value.shape is None or value.dtype not in _DTYPES:
        raise ExportError(f"tensor {value.name!r} has no known shape or dtype")
    scale, zero_point = _quantization_of(value) if value.dtype.is_integer() else (None, 0)
    return TensorSpec(
        dtype=_DTYPES[value.dtype],  # type: ignore[arg-type]
        shape=tuple(int(extent) for extent in value.shape[1:]),  # type: ignore[arg-type]
        scale=scale,
        zero_point=zero_point,
    )


def _quantization_of(value: ir.Value) -> tuple[float, int]:
    """Read scale and zero point from the node that quantised a tensor, or that dequantises it."""
    nodes = [value.producer(), *(use.node for use in value.uses())]
    for node in nodes:
        if node is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            constants = [ir.convenience.get_const_tensor(entry) for entry in node.inputs[1:] if entry is not None]
            if len(constants) == 2 and None not in constants:
                scale, zero_point = (constant.numpy() for constant in constants if constant is not None)
                return float(scale), int(zero_point)
    raise ExportError(f"tensor {value.name!r} holds integers without a scale")
