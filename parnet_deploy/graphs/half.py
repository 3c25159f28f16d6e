"""Decide 16 bits in the file: halve a float32 graph, with float32 islands where a measured difference asks for them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from parnet_deploy.errors import ExportError
from parnet_deploy.graphs.nodes import block_of

_FLOAT = ir.DataType.FLOAT

Runner = Callable[[ir.Model, tuple[str, ...]], dict[str, NDArray[np.floating]]]


@dataclass(frozen=True)
class HalfType:
    """A type of 16 bits: its name in errors, and the first opset whose operators take it, if not the graph's own.

    `is_numpy`: whether a tensor of it can cross between stages. bfloat16 cannot, numpy having none: there it is widened
    to float32, which loses nothing.
    """

    name: str
    dtype: ir.DataType
    opset: int | None = None
    is_numpy: bool = True


FLOAT16 = HalfType("float16", ir.DataType.FLOAT16)
# Convolutions and pools take it from opset 22 on; nothing else of what networks hold changed between 18 and 22.
BFLOAT16 = HalfType("bfloat16", ir.DataType.BFLOAT16, opset=22, is_numpy=False)


@dataclass(frozen=True)
class HalfGraph:
    """A halved graph, the blocks that stayed float32 and the relative difference of its logits."""

    model: ir.Model
    islands: tuple[str, ...]
    relative: float


def halve(
    model: ir.Model,
    islands: frozenset[str] = frozenset(),
    half_type: HalfType = FLOAT16,
    boundaries: Collection[str] = (),
) -> ir.Model:
    """Return a 16-bit copy of a float32 graph, with casts only where the precision changes.

    Nodes of the blocks in `islands` keep float32 weights and arithmetic. Graph inputs and outputs stay float32; another
    named tensor has the precision of the node that makes it, or float32 if numpy has no such type and it is one of the
    `boundaries`, which cross between stages.
    """
    half: ir.Model = model.clone()
    graph, narrow = half.graph, half_type.dtype
    if half_type.opset is not None:
        graph.opset_imports[""] = half_type.opset
    float32 = {*(value.name for value in graph.outputs), *(() if half_type.is_numpy else boundaries)}
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        wanted = _FLOAT if block_of(node.name or "") in islands else narrow
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (_FLOAT, narrow) and value.dtype != wanted:
                if (value, wanted) not in casts:
                    casts[value, wanted] = _converted(graph, value, wanted, before=node)
                node.replace_input_with(index, casts[value, wanted])
        for value in node.outputs:
            if value.dtype == _FLOAT:
                # Not `value.dtype = ..`: clones share their type objects with the source.
                value.type = ir.TensorType(wanted)
            if value.dtype == narrow and value.name in float32:
                _widen(graph, node, value)
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return half


def _converted(graph: ir.Graph, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
    suffix = "float" if wanted == _FLOAT else "half"
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


def _widen(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Cast what a node makes to float32, and give the cast its name, its users and its place among the outputs."""
    name = value.name
    value.name = f"{name}/narrow"
    cast = ir.node("Cast", [value], {"to": _FLOAT}, name=f"{name}/Cast")
    wide = cast.outputs[0]
    wide.name, wide.type, wide.shape = name, ir.TensorType(_FLOAT), value.shape
    for use in value.uses():
        if use.node is not cast:
            use.node.replace_input_with(use.idx, wide)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = wide
    graph.insert_after(node, cast)


def halve_within(
    model: ir.Model,
    run: Runner,
    output: str,
    tolerance: float,
    half_type: HalfType = FLOAT16,
    boundaries: Collection[str] = (),
) -> HalfGraph:
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
        half = halve(model, frozenset(islands), half_type, boundaries)
        measured = run(half, names)
        difference = {name: relative_difference(reference[name], measured[name]) for name in names}
        if difference[output] <= tolerance:
            return HalfGraph(half, islands, difference[output])
        candidates = [block for block in results if block not in islands]
        if not candidates:
            raise ExportError(
                f"{half_type.name} differs by {difference[output]:.1e} relative, beyond {tolerance:.0e}, even with "
                "islands",
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
