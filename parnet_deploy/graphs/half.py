"""Decide float16 in the file: halve a float32 graph, with float32 islands where a measured difference asks for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from parnet_deploy.errors import ExportError
from parnet_deploy.graphs.nodes import block_of

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

Runner = Callable[[ir.Model, tuple[str, ...]], dict[str, NDArray[np.floating]]]


@dataclass(frozen=True)
class HalfGraph:
    """A halved graph, the blocks that stayed float32 and the relative difference of its logits."""

    model: ir.Model
    islands: tuple[str, ...]
    relative: float


def halve(model: ir.Model, islands: frozenset[str] = frozenset()) -> ir.Model:
    """Return a float16 copy of a float32 graph, with casts only where the precision changes.

    Nodes of the blocks in `islands` keep float32 weights and arithmetic. Graph inputs and outputs stay float32; a named
    tensor has the precision of the node that makes it.
    """
    half: ir.Model = model.clone()
    graph = half.graph
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        wanted = _FLOAT if block_of(node.name or "") in islands else _HALF
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (_FLOAT, _HALF) and value.dtype != wanted:
                if (value, wanted) not in casts:
                    casts[value, wanted] = _converted(graph, value, wanted, before=node)
                node.replace_input_with(index, casts[value, wanted])
        for value in node.outputs:
            if value.dtype == _FLOAT:
                # Not `value.dtype = ..`: clones share their type objects with the source.
                value.type = ir.TensorType(wanted)
    for index, value in enumerate(list(graph.outputs)):
        if value.dtype == _HALF:
            graph.outputs[index] = _widened_output(graph, value)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return half


def _converted(graph: ir.Graph, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
    suffix = "half" if wanted == _HALF else "float"
    if value.name in graph.initializers:
        tensor = ir.convenience.get_const_tensor(value)
        assert tensor is not None
        with np.errstate(over="ignore"):  # an overflow becomes infinite, which the measurement sees
            array = tensor.numpy().astype(wanted.numpy())
        made = ir.Value(
            name=f"{value.name}.{suffix}", shape=value.shape, type=ir.TensorType(wanted), const_value=ir.tensor(array)
        )
        graph.register_initializer(made)
        return made
    cast = ir.node("Cast", [value], {"to": wanted}, name=f"{value.name}/Cast_{suffix}")
    cast.outputs[0].name = f"{value.name}/{suffix}"
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(wanted), value.shape
    graph.insert_before(before, cast)
    return cast.outputs[0]


def _widened_output(graph: ir.Graph, value: ir.Value) -> ir.Value:
    name = value.name
    value.name = f"{name}/half"
    cast = ir.node("Cast", [value], {"to": _FLOAT}, name=f"{name}/Cast")
    cast.outputs[0].name = name
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(_FLOAT), value.shape
    graph.append(cast)
    return cast.outputs[0]


def halve_within(model: ir.Model, run: Runner, output: str, tolerance: float) -> HalfGraph:
    """Halve a graph and add float32 islands, one block at a time, until its output is within `tolerance`.

    `run(model, names)` returns the named tensors of a graph on fixed images. The block to keep in float32 is the first
    whose result is not finite, else the one at which the relative difference grows most.

    Raises:
        ExportError: even with all the islands that helped, the difference is beyond `tolerance`.
    """
    results = _block_results(model)
    names = tuple(dict.fromkeys((*results.values(), output)))
    reference = run(model, names)
    islands: tuple[str, ...] = ()
    while True:
        half = halve(model, frozenset(islands))
        measured = run(half, names)
        difference = {name: relative_difference(reference[name], measured[name]) for name in names}
        if difference[output] <= tolerance:
            return HalfGraph(half, islands, difference[output])
        candidates = [block for block in results if block not in islands]
        if not candidates:
            raise ExportError(
                f"float16 differs by {difference[output]:.1e} relative, beyond {tolerance:.0e}, even with islands",
                remedy="export with --precision fp32",
            )
        islands = (*islands, _worst_block(results, difference, candidates))


def _worst_block(results: dict[str, str], difference: dict[str, float], candidates: list[str]) -> str:
    growth, before = {}, 0.0
    for block, name in results.items():
        if not np.isfinite(difference[name]) and block in candidates:
            return block
        growth[block] = difference[name] - before
        before = difference[name]
    return max(candidates, key=growth.__getitem__)


def _block_results(model: ir.Model) -> dict[str, str]:
    """Return each block's last value, in the graph's order."""
    results: dict[str, str] = {}
    for node in model.graph:
        block = block_of(node.name or "")
        results.pop(block, None)
        assert node.outputs[0].name is not None
        results[block] = node.outputs[0].name
    return results


def relative_difference(expected: NDArray[np.floating], found: NDArray[np.floating]) -> float:
    """Return max|expected - found| / max|expected|; infinite where a number is not finite."""
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    scale = float(np.abs(expected).max())
    return float(np.abs(expected - found).max()) / scale if scale else float(np.abs(found).max())
