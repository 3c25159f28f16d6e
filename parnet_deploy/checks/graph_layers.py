"""Read the layers inside ONNX graphs: values that no stage hands on, made outputs of a copy in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from parnet_deploy.artifacts.schemas import Graph, Stage
from parnet_deploy.checks.layers import Array, Copy, Layers, layers_between
from parnet_deploy.engines.onnxruntime import open_reference, run_reference, value_names
from parnet_deploy.planning.layers import Layer, network_layers, shuffled_names
from parnet_deploy.runtime.dequantize import dequantized

# The operator that makes a block's result, in the name that `export.cleanup` gives it: `stream1/0/act/Mul:0`.
_LAST_OPERATOR = {"silu": "Mul", "relu": "Relu"}
# ONNX Runtime keeps a value in float32 that a float16 graph would round and widen again, under this name.
_UNROUNDED = "InsertedPrecisionFreeCast_"


def unshuffle_channels(array: Array) -> Array:
    """Undo the training form's channel shuffle, so that Fusion outputs `[N, C, H, W]` of both forms are comparable."""
    return np.concatenate((array[:, 0::2], array[:, 1::2]), axis=1)


def find_values(names: Sequence[str], layers: Sequence[Layer], activation: str) -> dict[str, str]:
    """Return which of a graph's values each layer's tensor is; an optimised engine may have lost some.

    Only names are trusted: ONNX Runtime gives a value that it holds in another layout another name.
    """
    present = set(names)
    found = {}
    for layer in layers:
        inner = f"{layer.block.replace('.', '/')}/act/{_LAST_OPERATOR[activation]}:0"
        # Only a block inside a stream or the stem is named as its own tensor with a dot; the others are boundaries.
        name = inner if "." in layer.tensor else layer.tensor
        value = next((candidate for candidate in (name, _UNROUNDED + name) if candidate in present), None)
        if value is not None:
            found[layer.tensor] = value
    return found


class _Stage:
    """A stage's graph that answers with the layers inside it too."""

    def __init__(self, stage: Stage, path: Path, layers: Sequence[Layer], graph: Graph) -> None:
        self.inputs, self.name = stage.inputs, stage.name
        found = find_values(value_names(path), layers, graph.network.activation)
        self.inner = {tensor: value for tensor, value in found.items() if tensor not in stage.outputs}
        self._session = open_reference(path, also=tuple(self.inner.values()), is_bfloat16=graph.precision == "bf16")

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        fed = {name: feeds[name] for name in self.inputs}
        made = run_reference(self._session, tuple(self.inner.values()), fed, self.name)
        return dict(zip(self.inner, made, strict=True))


class GraphLayers:
    """The layers inside the graphs of a bundle, or of a plan whose engines are ONNX files."""

    def __init__(self, graph: Graph, files: Sequence[tuple[Stage, Path]]) -> None:
        layers = network_layers(graph.network)
        self._graph = graph
        self._between = [stage for stage, _ in files]
        self._stages = [_Stage(stage, path, layers, graph) for stage, path in files]

    def read(self, images: Array, tensors: Mapping[str, Array]) -> Layers:
        """Return every layer's copies, given the images and the tensors between the stages that they lead to.

        Stages are run apart, each on the tensors that were really handed to it; what is returned of integers is
        dequantised.
        """
        found = layers_between(self._between, dequantized(tensors, self._graph.tensors))
        feeds = {self._graph.input: images, **tensors}
        for stage in self._stages:
            for name, array in self._run(stage, feeds).items():
                found[name] = (*found.get(name, ()), Copy(stage.name, array))
        if self._graph.form == "training":
            for name in found.keys() & set(shuffled_names(self._graph.network.num_streams)):
                found[name] = tuple(Copy(stage, unshuffle_channels(array)) for stage, array in found[name])
        return found

    def _run(self, stage: _Stage, feeds: Mapping[str, Array]) -> dict[str, Array]:
        if not stage.inner:
            return {}
        batch, count = self._graph.batch, len(feeds[self._graph.input])
        chunks = []
        for start in range(0, count, batch.max):
            size = min(batch.max, count - start)
            made = stage.run({name: _rows(feeds[name], start, size, batch.min) for name in stage.inputs})
            chunks.append({name: array[:size] for name, array in made.items()})
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in stage.inner}


def _rows(array: Array, start: int, size: int, least: int) -> Array:
    """Return `size` samples, filled up with zeros to the least batch."""
    rows = array[start : start + size]
    padding = np.zeros((max(0, least - size), *rows.shape[1:]), rows.dtype)
    return np.concatenate([rows, padding])
