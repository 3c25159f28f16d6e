"""A bundle as a predictor: its ONNX files as they are, stage after stage, in ONNX Runtime without optimisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.folders import ArtifactKind, open_bundle
from parnet_deploy.checks.graph_layers import GraphLayers
from parnet_deploy.checks.layers import Layers
from parnet_deploy.checks.provenance import bundle_record
from parnet_deploy.engines.onnxruntime import open_reference, run_reference
from parnet_deploy.runtime.dequantize import dequantized

Array = NDArray[Any]


class BundlePredictor:
    """The reference reading of a bundle, against which engines are compared."""

    kind: ArtifactKind = "bundle"

    def __init__(self, folder: Path) -> None:
        self._bundle = open_bundle(folder)
        manifest = self._bundle.manifest
        self.record = bundle_record(self._bundle)
        self.network = manifest.network
        self.form = manifest.form
        self.precision = manifest.precision
        self.preprocessing = manifest.preprocessing
        self.label_names = manifest.label_names
        self.num_classes = manifest.network.num_classes
        is_bfloat16 = manifest.precision == "bf16"
        self._sessions = [
            (stage, open_reference(self._bundle.file_of(stage.name), is_bfloat16=is_bfloat16))
            for stage in manifest.stages
        ]
        self._layers: GraphLayers | None = None

    def predict(self, images: Array) -> Array:
        """Return logits."""
        return self.predict_tensors(images)[self._bundle.manifest.output]

    def predict_tensors(self, images: Array) -> dict[str, Array]:
        """Return every tensor between the bundle's stages, integers dequantised, and the logits."""
        return dequantized(self._run_all(images), self._bundle.manifest.tensors)

    def predict_layers(self, images: Array) -> Layers:
        """Return every block's tensor, with a copy for each stage that computes it."""
        if self._layers is None:
            stages = self._bundle.manifest.stages
            self._layers = GraphLayers(
                self._bundle.manifest, [(stage, self._bundle.file_of(stage.name)) for stage in stages]
            )
        return self._layers.read(images, self._run_all(images))

    def _run_all(self, images: Array) -> dict[str, Array]:
        """Return what the stages hand on, integers as they are."""
        batch = self._bundle.manifest.batch
        chunks = [self._run(images[i : i + batch.max], batch.min) for i in range(0, len(images), batch.max)]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _run(self, images: Array, least: int) -> dict[str, Array]:
        count = len(images)
        padding = max(0, least - count)
        padded = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
        tensors: dict[str, Array] = {self._bundle.manifest.input: padded}
        for stage, session in self._sessions:
            fed = {name: tensors[name] for name in stage.inputs}
            made = run_reference(session, stage.outputs, fed, stage.name)
            tensors |= dict(zip(stage.outputs, made, strict=True))
        del tensors[self._bundle.manifest.input]
        return {name: array[:count] for name, array in tensors.items()}
