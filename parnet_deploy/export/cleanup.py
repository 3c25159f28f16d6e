"""Clean an exported graph: pooling as one node, names that a person can read, constants folded, duplicates merged."""

from __future__ import annotations

import re
from collections import Counter

import onnx_ir as ir
import onnxsim
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from parnet_deploy.errors import ExportError
from parnet_deploy.graphs.nodes import block_of

_ROOT = "net."


def clean(model: ir.Model, *, fold_batchnorm: bool) -> ir.Model:
    """Return a cleaned copy of an exported graph; outputs keep their names.

    `fold_batchnorm` lets onnxsim fold a batch norm into the convolution before it. It is off for the training form,
    which is exported as it was trained.
    """
    optimizer.optimize(model)
    pool_by_one_node(model)
    name_by_scope(model)
    simplified, ok = onnxsim.simplify(ir.to_proto(model), skip_fuse_bn=not fold_batchnorm)
    if not ok:
        raise ExportError("onnxsim could not verify its simplification")
    cleaned: ir.Model = ir.from_proto(simplified)
    cleaned.metadata_props.clear()
    passes.CommonSubexpressionEliminationPass()(cleaned)
    passes.DeduplicateInitializersPass()(cleaned)
    passes.IdentityEliminationPass()(cleaned)
    passes.RemoveUnusedNodesPass()(cleaned)
    _name_the_unnamed(cleaned)
    passes.TopologicalSortPass()(cleaned)
    return cleaned


def pool_by_one_node(model: ir.Model) -> None:
    """Replace ReduceMean over height and width by GlobalAveragePool (and Flatten where the axes are dropped).

    torch.onnx lowers a global pool to ReduceMean, through which ONNX Runtime cannot carry its blocked layout.
    """
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or not _is_spatial(node):
            continue
        source, result = node.inputs[0], node.outputs[0]
        keeps = node.attributes.get_int("keepdims", 1)
        pool = ir.node("GlobalAveragePool", [source], metadata_props=dict(node.metadata_props))
        pool.outputs[0].type = result.type
        made = [pool]
        if source is not None and source.shape is not None:
            pool.outputs[0].shape = ir.Shape([*source.shape[:2], 1, 1])
        if not keeps:
            made.append(ir.node("Flatten", [pool.outputs[0]], {"axis": 1}, metadata_props=dict(node.metadata_props)))
            made[-1].outputs[0].type, made[-1].outputs[0].shape = result.type, result.shape
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], made, [result], [made[-1].outputs[0]])


def _is_spatial(node: ir.Node) -> bool:
    axes = ir.convenience.get_const_tensor(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    return axes is not None and sorted(int(axis) % 4 for axis in axes.numpy().ravel()) == [2, 3]


def _scope_of(node: ir.Node) -> str | None:
    """Return the module path that a node came from, as torch.onnx recorded it: `stream1/2/conv`."""
    namespace = node.metadata_props.get("namespace", "")
    paths = re.findall(rf"{re.escape(_ROOT)}([\w.]+):", namespace)
    return paths[-1].replace(".", "/") if paths else None


def name_by_scope(model: ir.Model) -> None:
    """Name nodes `stage/block/op` and their results alike; graph inputs and outputs keep their names."""
    used: Counter[str] = Counter()
    kept = {value for value in (*model.graph.inputs, *model.graph.outputs)}
    for node in model.graph:
        scope = _scope_of(node) or next((s for user in _users(node) if (s := _scope_of(user))), "graph")
        _name_node(node, scope, used, kept)
    for name, value in list(model.graph.initializers.items()):
        if name.startswith(_ROOT):
            value.name = name.removeprefix(_ROOT)


def _name_node(node: ir.Node, scope: str, used: Counter[str], kept: set[ir.Value]) -> None:
    base = f"{scope}/{node.op_type}"
    used[base] += 1
    node.name = base if used[base] == 1 else f"{base}_{used[base]}"
    for index, value in enumerate(node.outputs):
        if value not in kept:
            value.name = f"{node.name}:{index}"


def _users(node: ir.Node) -> list[ir.Node]:
    return [use.node for value in node.outputs for use in value.uses()]


def _name_the_unnamed(model: ir.Model) -> None:
    """Name what onnxsim made: folded constants after the block that reads them, for example `fusion2/constant`."""
    used: Counter[str] = Counter()
    for value in list(model.graph.initializers.values()):
        users = [use.node for use in value.uses()]
        if users and not re.fullmatch(r"[a-z]+\d*(\.\w+)+", value.name or ""):
            base = f"{block_of(users[0].name or '')}/constant"
            used[base] += 1
            value.name = base if used[base] == 1 else f"{base}_{used[base]}"


def keep_outputs(model: ir.Model, names: tuple[str, ...]) -> None:
    """Leave only the named outputs; the others stay as named values inside the graph."""
    kept = [value for value in model.graph.outputs if value.name in names]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    passes.RemoveUnusedNodesPass()(model)
