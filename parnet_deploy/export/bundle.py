"""Export a checkpoint to a bundle: one graph, cut into the stages of a partition, checked stage by stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parnet_deploy import __version__
from parnet_deploy.artifacts.files import holds, refuse_folder, replacing_folder, write_manifest
from parnet_deploy.artifacts.folders import OpenCard, open_card
from parnet_deploy.artifacts.schemas import (
    BatchRange,
    Bundle,
    Parity,
    Precision,
    Preprocessing,
)
from parnet_deploy.datasets.synthetic import random_images
from parnet_deploy.errors import CheckFailedError
from parnet_deploy.export.cleanup import clean, keep_outputs
from parnet_deploy.export.graph import export_graph, named_tensors
from parnet_deploy.graphs.half import BFLOAT16, FLOAT16, HalfType, halve_within, relative_difference
from parnet_deploy.graphs.run import run_graph
from parnet_deploy.graphs.stages import write_stages
from parnet_deploy.models.checkpoints import load_network
from parnet_deploy.models.parnet import preprocessing_at
from parnet_deploy.planning.partition import IMAGE, LOGITS, partition

# Relative to the largest logit. float32: another order of summation over 12 layers stays near 1e-6. float16: each of 12
# layers rounds to 11 bits, 5e-4; their sum stays below ten of those. bfloat16: 8 bits, eight times as coarse.
PARITY_TOLERANCE: dict[Precision, float] = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}
_HALF_TYPES: dict[Precision, HalfType] = {"fp16": FLOAT16, "bf16": BFLOAT16}

_TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExportOptions:
    """What to export: the partition's name, precision, batch sizes and the square input size in pixels."""

    partition: str = "whole"
    precision: Precision = "fp32"
    batch: BatchRange = field(default_factory=BatchRange)
    resolution: int | None = None


def export_bundle(
    checkpoint: str | Path,
    output: str | Path,
    options: ExportOptions | None = None,
    *,
    force: bool = False,
    progress: Progress = lambda _step: None,
) -> Bundle:
    """Export a checkpoint to a bundle folder and return its manifest.

    Raises:
        ArtifactError: the checkpoint is damaged, or the output exists.
        NetworkError: a resolution that the network cannot take.
        ExportError: the graph cannot be exported or partitioned.
        CheckFailedError: ONNX Runtime's numbers differ from torch's beyond `PARITY_TOLERANCE`.
    """
    options = options or ExportOptions()
    output = Path(output)
    refuse_folder(output, force=force, is_ours=holds("bundle.json"))
    opened = open_card(Path(checkpoint))
    card = opened.manifest
    stages = partition(card.network, options.partition, form=card.form)
    preprocessing = preprocessing_at(card.network, card.preprocessing, options.resolution)
    network = load_network(opened)
    size = preprocessing.input_size[1:]
    images = random_images(preprocessing, options.batch.opt)
    expected = {name: tensor.numpy() for name, tensor in named_tensors(network, torch.from_numpy(images)).items()}

    progress("exporting the whole graph")
    exported = export_graph(network, size, options.batch)
    progress("cleaning the graph")
    whole = clean(exported, fold_batchnorm=card.form == "fused")
    keep_outputs(whole, (LOGITS,))
    feeds: dict[str, NDArray[Any]] = {IMAGE: images}
    islands: tuple[str, ...] = ()
    if options.precision in _HALF_TYPES:
        half_type = _HALF_TYPES[options.precision]
        progress(f"deciding {half_type.name}")
        half = halve_within(
            whole,
            lambda model, names: run_graph(model, feeds, names),
            LOGITS,
            PARITY_TOLERANCE[options.precision],
            half_type,
            boundaries={name for stage in stages for name in stage.outputs},
        )
        whole, islands = half.model, half.islands

    with replacing_folder(output, force=force, is_ours=holds("bundle.json")) as folder:
        written = write_stages(whole, stages, folder, feeds, _metadata(opened, preprocessing, options), progress)
        parity = {name: _parity(expected[name], found) for name, found in written.made.items()}
        check_parity(parity, options.precision)
        bundle = Bundle(
            name=card.architecture,
            parent=opened.as_parent(),
            form=card.form,
            network=card.network,
            precision=options.precision,
            partition=options.partition,
            batch=options.batch,
            preprocessing=preprocessing,
            label_names=card.label_names,
            tensors=written.tensors,
            stages=written.stages,
            float32_islands=islands,
            parity=parity,
            tools={name: version(name) for name in _TOOLS},
        )
        write_manifest(folder / "bundle.json", bundle)
    return bundle


def _metadata(opened: OpenCard, preprocessing: Preprocessing, options: ExportOptions) -> dict[str, str]:
    card = opened.manifest
    return {
        "parnet_deploy.version": __version__,
        "parnet_deploy.architecture": card.architecture,
        "parnet_deploy.form": card.form,
        "parnet_deploy.parent_sha256": opened.sha256,
        "parnet_deploy.partition": options.partition,
        "parnet_deploy.precision": options.precision,
        "parnet_deploy.preprocessing": preprocessing.model_dump_json(),
        "parnet_deploy.label_names": json.dumps(card.label_names),
    }


def _parity(expected: NDArray[Any], found: NDArray[Any]) -> Parity:
    return Parity(
        max_abs=float(np.abs(expected - found.astype(np.float64)).max()), relative=relative_difference(expected, found)
    )


def check_parity(parity: dict[str, Parity], precision: Precision) -> None:
    """Raise `CheckFailedError` naming the first tensor, in the order they are made, that is beyond its tolerance."""
    tolerance = PARITY_TOLERANCE[precision]
    for name, found in parity.items():
        if not found.relative <= tolerance:
            raise CheckFailedError(
                f"{name} differs from torch by {found.relative:.1e} relative, beyond {tolerance:.0e}",
                remedy="nothing was written; please report it with the checkpoint's card",
            )
