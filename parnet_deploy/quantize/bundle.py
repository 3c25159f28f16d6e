"""Quantise a bundle: calibrate, choose, rank the layers, and write what passes the gate."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from parnet_deploy import __version__
from parnet_deploy.artifacts.files import holds, refuse_folder, refuse_source, replacing_folder, write_manifest
from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.artifacts.quantization import Attempt, GateRecord, ImageSet, LayerSensitivity, Quantization
from parnet_deploy.artifacts.schemas import Bundle, Graph, Parity
from parnet_deploy.checks.bundle_predictor import BundlePredictor
from parnet_deploy.graphs.half import halve, relative_difference
from parnet_deploy.graphs.run import run_graph
from parnet_deploy.graphs.stages import WrittenStages, write_stages
from parnet_deploy.planning.partition import IMAGE, LOGITS
from parnet_deploy.quantize.choose import Choice, choose_recipe, correct_biases, methods_for
from parnet_deploy.quantize.data import Part, load_data
from parnet_deploy.quantize.gate import Gate, answer, is_passed, refuse
from parnet_deploy.quantize.grids import Array
from parnet_deploy.quantize.insert import Recipe, insert_qdq
from parnet_deploy.quantize.layers import Placement, place_qdq
from parnet_deploy.quantize.measure import Phases
from parnet_deploy.quantize.report import write_report
from parnet_deploy.quantize.sensitivity import float_candidates, measure_layers
from parnet_deploy.quantize.source import QuantizeOptions, Source, read_source
from parnet_deploy.reporting.pictures import import_matplotlib
from parnet_deploy.runtime.dequantize import dequantized

_TOOLS = ("numpy", "onnx", "onnx-ir", "onnxruntime")


def quantize_bundle(
    bundle: str | Path,
    data: str,
    output: str | Path,
    options: QuantizeOptions | None = None,
    *,
    force: bool = False,
    phases: Phases = lambda _text, _total: lambda _done: None,
) -> Bundle:
    """Quantise a float32 bundle of any partition and write the result, if it passes the gate.

    `data` is as `load_data` takes it. `phases` is told what is run over how many images.

    Raises:
        ArtifactError: the bundle is damaged, or the output exists.
        QuantizationError: a bundle that is not fused or not float32, or a target that has no such precision or bits.
        ExportError: no partition of that name.
        DataError: images or labels that cannot be used.
        CheckFailedError: more accuracy is lost than may be; nothing is written.
        MissingDependencyError: matplotlib is not installed.
    """
    options = options or QuantizeOptions()
    bundle, output = Path(bundle), Path(output)
    refuse_folder(output, force=force, is_ours=holds("bundle.json"))
    refuse_source(output, bundle, "the result would replace the bundle it is made from")
    import_matplotlib(remedy='pip install "parnet-deploy[quantize]"')
    source = read_source(open_bundle(bundle), options)
    parts = load_data(data, source.opened.manifest, options.images)
    calibration, selection = parts.calibration.load(), parts.selection.load()
    choice = choose_recipe(source, methods_for(source.form, options.method), calibration, selection, phases)
    layers = measure_layers(source.free, source.layers, choice.recipe, selection, phases)
    gate = _open_gate(bundle, parts.judged, options.max_drop, phases)
    images = parts.calibration.describe(), parts.selection.describe()
    with replacing_folder(output, force=force, is_ours=holds("bundle.json")) as folder:
        writer = _Writer(folder, source, options, choice, layers, images, selection)
        made = _pass_gate(writer, gate, calibration, phases)
        write_manifest(folder / "bundle.json", made)
    return made


def _open_gate(bundle: Path, part: Part, max_drop: float, phases: Phases) -> Gate:
    before = answer(part, BundlePredictor(bundle).predict, phases("judging the float network", len(part)))
    return Gate(part, part.describe(), before, max_drop)


@dataclass(frozen=True)
class _Writer:
    """Writes a candidate into the output's folder, whole, over the one before it."""

    folder: Path
    source: Source
    options: QuantizeOptions
    choice: Choice
    layers: tuple[LayerSensitivity, ...]
    images: tuple[ImageSet, ImageSet]
    selection: Array

    def write(self, placement: Placement, recipe: Recipe) -> Bundle:
        """Write stages and manifest; return the manifest, which does not name a gate yet."""
        source, options = self.source, self.options
        whole = insert_qdq(source.whole, placement, recipe, source.boundaries)
        if source.float_precision == "fp16":
            whole = halve(whole)
        batch = source.opened.manifest.batch.opt
        feeds = {IMAGE: np.resize(self.selection, (batch, *self.selection.shape[1:]))}
        metadata = {
            **source.metadata,
            "parnet_deploy.version": __version__,
            "parnet_deploy.parent_sha256": source.opened.sha256,
            "parnet_deploy.partition": source.partition,
            "parnet_deploy.precision": options.precision,
        }
        written = write_stages(whole, source.stages, self.folder, feeds, metadata, lambda _step: None)
        made = self._manifest(written, feeds, placement, recipe)
        write_manifest(self.folder / "bundle.json", made)
        return made

    def finish(self, made: Bundle, placement: Placement, record: GateRecord, attempts: tuple[Attempt, ...]) -> Bundle:
        """Write the report of the candidate that passed; return its manifest, complete."""
        kept = {layer.name for layer in placement.layers}
        report, picture = write_report(
            self.folder,
            name=made.name,
            choice=self.choice,
            layers=tuple(layer.model_copy(update={"is_float": layer.name not in kept}) for layer in self.layers),
            tensors=placement.tensors,
        )
        assert made.quantization is not None
        passed = {"gate": record, "attempts": attempts, "report": report, "picture": picture}
        return made.model_copy(update={"quantization": made.quantization.model_copy(update=passed)})

    def _manifest(
        self, written: WrittenStages, feeds: dict[str, Array], placement: Placement, recipe: Recipe
    ) -> Bundle:
        source, options = self.source, self.options
        shared = {name: getattr(source.opened.manifest, name) for name in Graph.model_fields}
        kept = {layer.name for layer in placement.layers}
        left = tuple(layer for layer in source.layers if layer.name not in kept)
        quantization = Quantization(
            target=options.target,
            weight_bits=options.weight_bits,
            float_precision=source.float_precision,
            method=self.choice.method,
            bias_correction=bool(recipe.shifts),
            calibration=self.images[0],
            selection=self.images[1],
            layers=len(source.layers),
            float_layers=tuple(layer.name for layer in left),
            float_share=sum(layer.operations for layer in left) / source.operations,
        )
        changed = {
            "parent": source.opened.as_parent(),
            "precision": options.precision,
            "partition": source.partition,
            "tensors": written.tensors,
        }
        return Bundle(
            **{**shared, **changed},
            stages=written.stages,
            quantization=quantization,
            parity=_parity(source, written, feeds),
            tools={name: version(name) for name in _TOOLS},
        )


def _parity(source: Source, written: WrittenStages, feeds: dict[str, Array]) -> dict[str, Parity]:
    """Return how far quantisation moved each boundary tensor; it is told, and judged by the gate alone."""
    expected = run_graph(source.whole, feeds, tuple(written.made))
    found = dequantized(written.made, written.tensors)
    return {
        name: Parity(
            max_abs=float(np.abs(expected[name] - found[name]).max()),
            relative=relative_difference(expected[name], found[name]),
        )
        for name in written.made
    }


def _pass_gate(writer: _Writer, gate: Gate, calibration: Array, phases: Phases) -> Bundle:
    """Write candidates, the worst layers left in float bit by bit, until one passes; judged from its files.

    Raises:
        CheckFailedError: none passes.
    """
    source, recipe = writer.source, writer.choice.recipe
    attempts: list[Attempt] = []
    judged: tuple[Bundle, GateRecord] | None = None
    for float_layers in float_candidates(writer.layers, writer.options.max_float_share):
        placement = place_qdq(source.layers, source.form, {LOGITS}, float_layers)
        if float_layers and writer.choice.is_corrected:
            recipe = correct_biases(source.free, placement, recipe, calibration, phases)
        made = writer.write(placement, recipe)
        advance = phases(_what_is_judged(len(float_layers)), len(gate.part))
        record = gate.judge(answer(gate.part, BundlePredictor(writer.folder).predict, advance))
        attempts.append(Attempt(float_layers=len(float_layers), drop=record.drop))
        judged = made, record
        if is_passed(record):
            return writer.finish(made, placement, record, tuple(attempts))
    assert judged is not None
    refused, record = judged
    assert refused.quantization is not None
    raise refuse(record, len(refused.quantization.float_layers), refused.quantization.float_share)


def _what_is_judged(float_layers: int) -> str:
    return f"judging with {float_layers} layers in float" if float_layers else "judging"
