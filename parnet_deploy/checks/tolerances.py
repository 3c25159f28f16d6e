"""How far two artefacts of one network may differ, and why; docs/verify.md says what was measured."""

from __future__ import annotations

from collections.abc import Collection

from parnet_deploy.artifacts.verification import Tolerance
from parnet_deploy.errors import EngineError

# Each tolerance is about three times the largest difference from float64 that was measured on sound artefacts: 25
# networks of random weights and statistics and a trained one, in both forms, as bundles and plans of ONNX Runtime, on
# photographs and random images. Finest first: a comparison is held to the tolerance of the coarser side.
TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        precision="fp32",
        layer=2e-4,
        logits=1e-4,
        # The unit in the last place of numbers of order one: what is smaller is rounded away where it is added to them.
        absolute=1.2e-7,
        noise=3e-6,
        reason="engines sum in other orders and convolve by other algorithms; measured at most 6.7e-5 on a layer and"
        " 2.5e-5 on the logits, most of it from pooling a photograph by one running sum",
    ),
    "fp16": Tolerance(
        precision="fp16",
        layer=5e-2,
        logits=2e-2,
        # The smallest normal float16: hardware may round anything smaller to zero.
        absolute=6.1e-5,
        noise=1e-3,
        reason="11 bits round by up to 4.9e-4 at each operation; measured at most 1.9e-2 on a layer and 6.7e-3 on the"
        " logits",
    ),
    "bf16": Tolerance(
        precision="bf16",
        layer=4e-1,
        logits=2e-1,
        absolute=6.1e-5,
        noise=1.5e-2,
        reason="8 bits round by up to 3.9e-3 at each operation, eight times as much as fp16; measured at most 1.5e-1 on"
        " a layer and 7.1e-2 on the logits, with torch on a CPU",
    ),
    "int8": Tolerance(
        precision="int8",
        layer=None,
        logits=None,
        absolute=0.0,
        noise=5e-2,
        agreement=0.98,
        reason="a calibrated int8 network is another function: measured 3e-2 to 1.1e-1 on its layers with 359 of 359"
        " and 358 of 359 images in the same class, so it is the classes that are held to a bound",
    ),
    "fp8": Tolerance(
        precision="fp8",
        layer=None,
        logits=None,
        absolute=0.0,
        noise=1e-1,
        agreement=0.98,
        reason="3 bits of mantissa round by up to 6.3e-2: measured 6e-2 to 1.6e-1 on the layers, with 358 of 359 images"
        " in the same class, so it is the classes that are held to a bound",
    ),
}

_ORDER = tuple(TOLERANCES)


def bound_on(images: str, bound: Tolerance, reported: Collection[str]) -> Tolerance:
    """Return what is allowed on a set of images: classes are not judged on those whose agreement is only reported."""
    return bound.model_copy(update={"agreement": None}) if images in reported else bound


def tolerance_for(a: str, b: str, given: float | None = None) -> Tolerance:
    """Return the tolerance of a comparison between two precisions; `given` replaces what it allows.

    Raises:
        EngineError: a precision for which no tolerance is known.
    """
    for precision in (a, b):
        if precision not in TOLERANCES:
            raise EngineError(
                f"no tolerance is known for {precision}", remedy=f"precisions with one: {', '.join(TOLERANCES)}"
            )
    coarser = TOLERANCES[max(a, b, key=_ORDER.index)]
    if given is None:
        return coarser
    asked = {"layer": given, "logits": given, "absolute": 0.0, "agreement": None, "reason": ""}
    return coarser.model_copy(update=asked)
