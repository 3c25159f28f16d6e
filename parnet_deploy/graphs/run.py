"""Run graphs in ONNX Runtime, inner tensors included, with the optimisation that it chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from parnet_deploy.errors import ExportError
from parnet_deploy.graphs.bfloat16 import has_bfloat16, in_float32

Tensors = Mapping[str, NDArray[Any]]


class GraphRunner:
    """A graph open for many runs on the CPU; `names` are the tensors to return, inner ones included."""

    def __init__(self, model: ir.Model, names: tuple[str, ...]) -> None:
        """Raise `ExportError` if ONNX Runtime refuses the graph."""
        present = {value.name for value in model.graph.outputs}
        missing = [name for name in names if name not in present]
        probed: ir.Model = model.clone() if missing else model
        values = {value.name: value for node in probed.graph for value in node.outputs}
        probed.graph.outputs.extend(values[name] for name in missing)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # No sum of int8 products saturates, also where a processor has no VNNI.
        options.add_session_config_entry("session.x64quantprecision", "1")
        proto = ir.to_proto(probed)
        if has_bfloat16(proto):
            proto = in_float32(proto)
        try:
            self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base but Exception
            raise ExportError(f"ONNX Runtime refuses the exported graph ({error})") from error
        self._names = names

    def run(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        """Return the named tensors; raise `ExportError` if a node fails."""
        if not self._names:  # which ONNX Runtime takes for all of them
            return {}
        try:
            return dict(zip(self._names, self._session.run(list(self._names), dict(feeds)), strict=True))
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot run the exported graph ({error})") from error


def run_graph(model: ir.Model, feeds: Tensors, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Run a graph once on the CPU and return the named tensors, inner ones included."""
    return GraphRunner(model, names).run(feeds)


def with_free_batch(model: ir.Model) -> ir.Model:
    """Return a copy of a graph, whose tensors all begin with the batch axis, that takes any number of samples."""
    freed: ir.Model = model.clone()
    for value in (*freed.graph.inputs, *(made for node in freed.graph for made in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape(["N", *value.shape[1:]])
    return freed
