"""Put the stages of a bundle together to the one graph that they were cut from."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from parnet_deploy.errors import ExportError


def join_stages(stages: Sequence[ir.Model]) -> ir.Model:
    """Return the whole graph that stages, in topological order, were cut from; what several repeat comes once.

    The graph has the first stage's inputs and the last one's outputs.
    """
    values: dict[str, ir.Value] = {}
    nodes: list[ir.Node] = []
    initializers: list[ir.Value] = []
    for stage in stages:
        for value in (*stage.graph.inputs, *stage.graph.initializers.values()):
            if value.name not in values:
                copied = ir.Value(name=value.name, shape=value.shape, type=value.type, const_value=value.const_value)
                values[_name_of(value)] = copied
                if value.is_initializer():
                    initializers.append(copied)
        for node in stage.graph:
            if _name_of(node.outputs[0]) not in values:
                nodes.append(_copied(node, values))
    first, last = stages[0].graph, stages[-1].graph
    graph = ir.Graph(
        [values[_name_of(value)] for value in first.inputs],
        [values[_name_of(value)] for value in last.outputs],
        nodes=nodes,
        initializers=initializers,
        opset_imports=dict(first.opset_imports),
        name="whole",
    )
    return ir.Model(graph, ir_version=stages[0].ir_version, producer_name="parnet-deploy")


def _name_of(value: ir.Value) -> str:
    if value.name is None:
        raise ExportError("the graph has a tensor without a name")
    return value.name


def _copied(node: ir.Node, values: dict[str, ir.Value]) -> ir.Node:
    outputs = [ir.Value(name=value.name, shape=value.shape, type=value.type) for value in node.outputs]
    values.update({_name_of(value): value for value in outputs})
    return ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else values[_name_of(value)] for value in node.inputs],
        list(node.attributes.values()),
        outputs=outputs,
        name=node.name,
    )
