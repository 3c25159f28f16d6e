"""How far two artefacts of one network may differ, and why."""

from __future__ import annotations

from parnet_deploy.artifacts.schemas import Precision

# Relative to the largest logit, for twelve layers. float32: engines sum in other orders and fuse multiply-adds; 1e-6 is
# usual, and an engine's own fast convolution (Winograd) may lose another digit. float16: 11 bits round by 5e-4 at each
# layer; their sum stays an order of magnitude below what changes a decision. int8 and fp8 are judged by accuracy
# when they are made (docs/quantization.md); the bound here only tells a damaged network from a quantised one.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.5, "fp8": 0.5}

# Coarsest last: a comparison is held to the tolerance of the coarser side.
_ORDER: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")


def tolerance_for(a: Precision, b: Precision) -> float:
    """Return the tolerance of a comparison between two precisions."""
    return TOLERANCES[max(a, b, key=_ORDER.index)]
