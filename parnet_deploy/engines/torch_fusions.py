"""Make one call of what torch has one kernel for: elementwise chains of a translated graph.

Between convolutions a kernel reads and writes whole maps and computes next to nothing, so each that goes is time. In
half precision a rounding goes with it. What others read as well is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.nn import functional as F

_Function = Callable[..., Tensor]


def fuse_elementwise(module: fx.GraphModule) -> None:
    """Write x * sigmoid(x) as silu(x), and a * b + c as addcmul(c, a, b)."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is torch.mul:
            _fuse_silu(graph, node)
    for node in list(graph.nodes):
        if node.target is torch.add:
            _fuse_addcmul(graph, node)
    module.recompile()


def _fuse_silu(graph: fx.Graph, product: fx.Node) -> None:
    for gate, value in _both_orders(product):
        if _is_only_for(product, gate, torch.sigmoid) and gate.args == (value,):
            _replace(graph, product, F.silu, value)
            return


def _fuse_addcmul(graph: fx.Graph, total: fx.Node) -> None:
    for product, other in _both_orders(total):
        if product is not other and _is_only_for(total, product, torch.mul):
            _replace(graph, total, torch.addcmul, other, *product.args)
            return


def _both_orders(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Return the two operands of a call, which are nodes and never numbers where a file was translated."""
    first, second = cast(tuple[fx.Node, fx.Node], node.args)
    return [(first, second), (second, first)]


def _is_only_for(reader: fx.Node, argument: fx.Node, function: _Function) -> bool:
    return argument.target is function and list(argument.users) == [reader]


def _replace(graph: fx.Graph, node: fx.Node, function: _Function, *arguments: Any) -> None:
    """Put one call in place of a node, and drop what only that has read."""
    with graph.inserting_before(node):
        made = graph.call_function(function, arguments)
    node.replace_all_uses_with(made)
    read = node.all_input_nodes
    graph.erase_node(node)
    for earlier in read:
        if not earlier.users:
            graph.erase_node(earlier)
