"""Compare two artefacts of one network on the same images: logits, and as many tensors on the way as both can tell."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from numpy.typing import NDArray

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.artifacts.verification import Comparison, Difference, LayerDifference, Tolerance
from parnet_deploy.checks.departure import GROWTH, find_departure
from parnet_deploy.checks.differences import tensor_difference
from parnet_deploy.checks.layers import Copy, Layers
from parnet_deploy.checks.predictors import Predictor
from parnet_deploy.checks.tolerances import bound_on, tolerance_for
from parnet_deploy.errors import CheckFailedError
from parnet_deploy.planning.layers import network_layers, reach_of
from parnet_deploy.planning.partition import LOGITS, boundary_names

Array = NDArray[Any]
# What is compared: the logits, the tensors between stages too, or every block's tensor too.
Detail = Literal["logits", "stages", "layers"]


def compare(
    a: Predictor,
    b: Predictor,
    images: Mapping[str, Array],
    *,
    detail: Detail = "logits",
    tolerance: float | None = None,
    reported: Collection[str] = (),
) -> tuple[Comparison, ...]:
    """Compare two artefacts on each named set of images `[N, C, H, W]`; on those `reported`, classes are not judged.

    Raises:
        CheckFailedError: the artefacts are of different networks: other classes or another input size.
    """
    check_same_network(a, b)
    bound = tolerance_for(a.precision, b.precision, tolerance)
    return tuple(
        _compare_on(name, a, b, batch, detail, bound_on(name, bound, reported)) for name, batch in images.items()
    )


def check_same_network(a: Predictor, b: Predictor) -> None:
    """Raise `CheckFailedError` if the artefacts differ in their classes or, where both are exported, their input."""
    if a.num_classes != b.num_classes:
        raise CheckFailedError(
            f"{a.num_classes} classes against {b.num_classes}: these are different networks",
            remedy="compare artefacts that were made from one checkpoint",
        )
    sizes = [predictor.preprocessing.input_size for predictor in (a, b) if predictor.kind != "checkpoint"]
    if len(set(sizes)) > 1:
        shown = " against ".join("x".join(map(str, size)) for size in sizes)
        raise CheckFailedError(f"inputs of {shown}", remedy="export both at one resolution: export --resolution")


def _compare_on(name: str, a: Predictor, b: Predictor, images: Array, detail: Detail, bound: Tolerance) -> Comparison:
    stages: tuple[Difference, ...] = ()
    layers: tuple[LayerDifference, ...] = ()
    if detail == "layers":
        told_a, told_b = a.predict_layers(images), b.predict_layers(images)
        logits_a, logits_b = told_a[LOGITS][0].array, told_b[LOGITS][0].array
        layers = layers_in_order(a.network, _measure_layers(told_a, told_b, bound))
        between = boundary_names(a.network.num_streams, with_terms=True)
        stages = tuple(_as_stage(layer) for layer in layers if layer.name in between)
    elif detail == "stages":
        of_a, of_b = a.predict_tensors(images), b.predict_tensors(images)
        logits_a, logits_b = of_a.pop(LOGITS), of_b.pop(LOGITS)
        stages = tuple(
            tensor_difference(key, of_a[key], of_b[key], bound.layer, bound.absolute) for key in of_a if key in of_b
        )
    else:
        logits_a, logits_b = a.predict(images), b.predict(images)
    return make_comparison(
        name,
        len(images),
        tensor_difference(LOGITS, logits_a, logits_b, bound.logits, bound.absolute),
        float((logits_a.argmax(axis=1) == logits_b.argmax(axis=1)).mean()),
        bound,
        stages=stages,
        layers=layers,
    )


def make_comparison(
    images: str,
    count: int,
    logits: Difference,
    agreement: float,
    bound: Tolerance,
    *,
    stages: tuple[Difference, ...] = (),
    layers: tuple[LayerDifference, ...] = (),
) -> Comparison:
    """Judge what was measured on a set of images, and look for the layer that departs first."""
    agrees = bound.agreement is None or agreement >= bound.agreement
    return Comparison(
        images=images,
        count=count,
        logits=logits,
        top1_agreement=agreement,
        agreement=bound.agreement,
        stages=stages,
        layers=layers,
        tolerance=bound.logits,
        passed=agrees and all(entry.passed for entry in (logits, *stages, *layers)),
        departure=find_departure(layers, bound.noise),
    )


def _as_stage(layer: LayerDifference) -> Difference:
    return Difference(**{name: getattr(layer, name) for name in Difference.model_fields})


# A difference and the stage whose copy it was measured on.
Measured = list[tuple[Difference, str | None]]


def layers_in_order(network: NetworkConfig, measured: Mapping[str, Measured]) -> tuple[LayerDifference, ...]:
    """Return the worst difference of each layer, in topological order.

    The stage of the worst copy is named where that copy differs and another does not.
    """
    layers = network_layers(network)
    reaches = reach_of(layers, measured.keys())
    found = []
    for layer in layers:
        if layer.tensor in reaches:
            ranked = sorted(measured[layer.tensor], key=lambda entry: (entry[0].passed, -entry[0].size))
            (worst, stage), (least, _) = ranked[0], ranked[-1]
            found.append(
                LayerDifference(
                    **worst.model_dump(),
                    blocks=reaches[layer.tensor].blocks,
                    inputs=reaches[layer.tensor].inputs,
                    depth=layer.depth,
                    stage=stage if worst.size > GROWTH * least.size else None,
                )
            )
    return tuple(found)


def _measure_layers(a: Layers, b: Layers, bound: Tolerance) -> dict[str, Measured]:
    measured = {}
    for name in a.keys() & b.keys():
        allowed = bound.logits if name == LOGITS else bound.layer
        repeats_in_a = len(a[name]) > len(b[name])
        measured[name] = [
            (
                tensor_difference(name, left.array, right.array, allowed, bound.absolute),
                left.stage if repeats_in_a else right.stage,
            )
            for left, right in _pair_copies(a[name], b[name])
        ]
    return measured


def _pair_copies(a: tuple[Copy, ...], b: tuple[Copy, ...]) -> list[tuple[Copy, Copy]]:
    """Pair every copy with the other side's of the same stage, or where there is none with its first."""
    of_a, of_b = ({copy.stage: copy for copy in copies} for copies in (a, b))
    pairs = [(copy, of_b.get(copy.stage, b[0])) for copy in a]
    # A lone copy in no stage is the partner of all.
    pairs += [(of_a.get(copy.stage, a[0]), copy) for copy in b]
    return list({(id(left), id(right)): (left, right) for left, right in pairs}.values())
