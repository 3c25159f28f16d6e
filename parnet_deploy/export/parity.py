"""Run exported graphs in ONNX Runtime, unoptimised choices left to it, to compare them with torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from parnet_deploy.errors import ExportError

Tensors = Mapping[str, NDArray[np.floating]]


def run_graph(model: ir.Model, feeds: Tensors, names: tuple[str, ...]) -> dict[str, NDArray[np.floating]]:
    """Run a graph on the CPU and return the named tensors, inner ones included."""
    probed: ir.Model = model.clone()
    present = {value.name for value in probed.graph.outputs}
    values = {value.name: value for node in probed.graph for value in node.outputs}
    probed.graph.outputs.extend(values[name] for name in names if name not in present)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(
            ir.to_proto(probed).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))
    except Exception as error:  # onnxruntime's exceptions share no base but Exception
        raise ExportError(f"ONNX Runtime refuses the exported graph ({error})") from error
