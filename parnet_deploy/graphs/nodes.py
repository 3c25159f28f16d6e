"""What a node's name and operator tell: the block that it belongs to, and how many there are of a kind."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir


def block_of(node_name: str) -> str:
    """Return the block that a node belongs to by its name: `stream1/2` of `stream1/2/conv/Conv`."""
    parts = node_name.split("/")
    return "/".join(parts[:2]) if len(parts) > 1 and parts[1].isdigit() else parts[0]


def node_counts(model: ir.Model) -> dict[str, int]:
    """Count nodes by operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph).most_common())
