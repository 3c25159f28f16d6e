"""Remember what an artefact answers, and tell later whether it, or what was made in its place, still does."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from parnet_deploy.artifacts.golden import Golden, GoldenSet, PackedArray
from parnet_deploy.artifacts.verification import ArtefactRecord, Change, Comparison, Environment, Tolerance
from parnet_deploy.checks.compare import Measured, layers_in_order, make_comparison
from parnet_deploy.checks.differences import tensor_difference
from parnet_deploy.checks.images import Images, random_beside_real, same_images
from parnet_deploy.checks.predictors import Predictor
from parnet_deploy.checks.provenance import describe_environment
from parnet_deploy.checks.sketch import ANEW, fingerprint, sketched_difference
from parnet_deploy.checks.tolerances import bound_on
from parnet_deploy.errors import CheckFailedError, DataError
from parnet_deploy.planning.layers import network_layers
from parnet_deploy.planning.partition import LOGITS

_HASH_DIGITS = 12


def make_golden(predictor: Predictor, images: Sequence[Images], tolerance: float | None = None) -> Golden:
    """Return what a predictor answers to sets of images: logits, and fingerprints of all layers that it tells."""
    return Golden(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        artefact=predictor.record,
        network=predictor.network,
        preprocessing=predictor.preprocessing,
        environment=describe_environment(),
        tolerance=tolerance,
        sets=tuple(_golden_set(predictor, entry) for entry in images),
    )


def _golden_set(predictor: Predictor, images: Images) -> GoldenSet:
    layers = predictor.predict_layers(images.pixels)
    logits = layers.pop(LOGITS)[0].array
    known = [layer.tensor for layer in network_layers(predictor.network) if layer.tensor in layers]
    return GoldenSet(
        images=images.record(),
        logits=PackedArray.of(logits),
        tensors={name: fingerprint(layers[name][0].array) for name in known},
    )


def compare_golden(
    golden: Golden, predictor: Predictor, bound: Tolerance, data: str | None = None
) -> tuple[Comparison, ...]:
    """Compare what a predictor answers with what a golden file remembers, on the same images.

    Raises:
        CheckFailedError: the predictor is of another network: other classes, another input size or other widths.
        DataError: the golden file's images are not to be had.
    """
    if golden.network.num_classes != predictor.num_classes:
        raise CheckFailedError(
            f"{golden.network.num_classes} classes against {predictor.num_classes}: other networks",
            remedy=f"verify an artefact of the {golden.network.num_classes} classes, or {ANEW}",
        )
    size, found = golden.preprocessing.input_size, predictor.preprocessing.input_size
    if predictor.kind != "checkpoint" and size != found:
        raise CheckFailedError(
            f"the golden file is of inputs of {_extents(size)}, this takes {_extents(found)}",
            remedy=f"export at that size (export --resolution), or {ANEW}",
        )
    if data is not None and all(entry.images.source not in ("files", "digits") for entry in golden.sets):
        raise DataError("the golden file was written for random images alone", remedy="leave out --data")
    reported = random_beside_real([entry.images for entry in golden.sets])
    return tuple(
        _compare_set(golden, entry, predictor, bound_on(entry.images.name, bound, reported), data)
        for entry in golden.sets
    )


def _extents(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _compare_set(
    golden: Golden, kept: GoldenSet, predictor: Predictor, bound: Tolerance, data: str | None
) -> Comparison:
    pixels = same_images(kept.images, golden.preprocessing, data)
    layers = predictor.predict_layers(pixels)
    before, now = kept.logits.unpack(), layers.pop(LOGITS)[0].array
    logits = tensor_difference(LOGITS, before, now, bound.logits, bound.absolute)
    measured: dict[str, Measured] = {
        name: [
            (sketched_difference(name, entry, copy.array, bound.layer, bound.absolute), copy.stage)
            for copy in layers[name]
        ]
        for name, entry in kept.tensors.items()
        if name in layers
    }
    return make_comparison(
        kept.images.name,
        kept.images.count,
        logits,
        float((before.argmax(axis=1) == now.argmax(axis=1)).mean()),
        bound,
        layers=layers_in_order(predictor.network, measured | {LOGITS: [(logits, None)]}),
    )


def changes_since(golden: Golden, now: ArtefactRecord, environment: Environment) -> tuple[Change, ...]:
    """Name what is not what it was when a golden file was written: artefact, parent, exporter, engine, machine."""
    before = {**_artefact_facts(golden.artefact), **_environment_facts(golden.environment)}
    after = {**_artefact_facts(now), **_environment_facts(environment)}
    names = dict.fromkeys((*before, *after))
    return tuple(
        Change(what=name, before=before.get(name, "none"), after=after.get(name, "none"))
        for name in names
        if before.get(name) != after.get(name)
    )


def _artefact_facts(record: ArtefactRecord) -> dict[str, str]:
    facts = {
        "kind": record.kind,
        "manifest": record.sha256[:_HASH_DIGITS],
        "architecture": record.architecture,
        "form": record.form,
        "precision": record.precision,
        "partition": record.partition or "none",
    }
    if record.parent is not None:
        facts[f"parent {record.parent.kind}"] = record.parent.sha256[:_HASH_DIGITS]
    made = {"bundle": "exported with", "plan": "built with", "checkpoint": "made with"}[record.kind]
    facts |= {f"{made} {tool}": version for tool, version in record.tools.items()}
    return facts | {f"built for {device.device}": f"{device.name} ({device.capability})" for device in record.devices}


def _environment_facts(environment: Environment) -> dict[str, str]:
    facts = {
        "parnet-deploy": environment.tool_version,
        "processor": f"{environment.processor} ({environment.capability})",
        "Python": environment.python,
    }
    return facts | {f"installed {name}": version for name, version in environment.packages.items()}
