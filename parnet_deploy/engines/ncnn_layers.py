"""The layers of an ncnn model: their text, who reads what, and how convolutions and linear layers are cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_MAGIC = 7767517
# Filters of larger convolutions are shared out, in parts that keep ncnn's packs of 16 channels whole.
_LARGEST_BYTES = 16 * 2**20
_PACK = 16

Params = dict[int, int | str]


@dataclass(frozen=True)
class NcnnModel:
    """A model in ncnn's two files."""

    param: str
    weights: bytes


@dataclass
class Layer:
    """One layer; `params` are ncnn's by their numbers, `weights` in the order that ncnn reads them."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: Params = field(default_factory=dict)
    weights: tuple[bytes, ...] = ()

    def line(self) -> str:
        """Return the layer's line of the text."""
        numbers = " ".join(f"{key}={value}" for key, value in self.params.items())
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        return f"{self.kind:<24} {self.name:<24} {counts} {' '.join((*self.inputs, *self.outputs))} {numbers}".rstrip()


def write_model(layers: list[Layer], outputs: Collection[str]) -> NcnnModel:
    """Return the model of layers, in topological order, whose blobs may have several readers; `outputs` are taken."""
    split = _with_splits(layers, outputs)
    blobs = sum(len(layer.outputs) for layer in split)
    lines = [str(_MAGIC), f"{len(split)} {blobs}", *(layer.line() for layer in split)]
    return NcnnModel("\n".join(lines) + "\n", b"".join(data for layer in layers for data in layer.weights))


def _with_splits(layers: list[Layer], outputs: Collection[str]) -> list[Layer]:
    """Give every reader a blob of its own, as ncnn wants it: what several read goes through a layer `Split`.

    Who takes an output of the model is a reader too, of the blob that has the output's name.
    """
    readers = Counter(name for layer in layers for name in layer.inputs)
    shared = {
        name: [f"{name}_{index}" for index in range(count)]
        for name, count in readers.items()
        if count + (name in outputs) > 1
    }
    unread = {name: iter(parts) for name, parts in shared.items()}
    result: list[Layer] = []
    for layer in layers:
        inputs = [next(unread[name]) if name in shared else name for name in layer.inputs]
        made = [f"{name}_made" if name in shared and name in outputs else name for name in layer.outputs]
        result.append(Layer(layer.kind, layer.name, inputs, made, layer.params))
        for name, blob in zip(layer.outputs, made, strict=True):
            if name in shared:
                parts = [*([name] if name in outputs else []), *shared[name]]
                result.append(Layer("Split", f"{name}_split", [blob], parts))
    return result


def dense_matrix(weight: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """Return the matrix of a linear layer in groups, with zeros between them."""
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    dense = np.zeros((weight.shape[0], columns * groups), np.float32)
    for group in range(groups):
        part = slice(group * rows, (group + 1) * rows)
        dense[part, group * columns : (group + 1) * columns] = weight[part]
    return dense


def parts_of(weight: NDArray[np.float32], groups: int) -> list[slice]:
    """Return which filters are computed together: each group's, in equal parts that are not too large."""
    filters = weight.shape[0] // groups
    count = -(-weight.nbytes // groups // _LARGEST_BYTES)
    size = -(-filters // (count * _PACK)) * _PACK if count > 1 else filters
    return [
        slice(first, min(first + size, (group + 1) * filters))
        for group in range(groups)
        for first in range(group * filters, (group + 1) * filters, size)
    ]
