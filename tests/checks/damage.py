"""Damage one block of an artefact and leave everything else to the bit: hashes and manifests fit what is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from parnet_deploy.artifacts.files import read_manifest, write_manifest
from parnet_deploy.artifacts.folders import open_bundle, open_card
from parnet_deploy.artifacts.schemas import SCHEMA_VERSION, Bundle, FileRecord
from parnet_deploy.models.checkpoints import load_network, save_checkpoint
from parnet_deploy.models.parnet import ParNet

# Changes a kernel [out, in, k, k] or a matrix [out, in] in place.
Change = Callable[[NDArray[np.floating]], None]


def scale(kernel: NDArray[np.floating]) -> None:
    """Make every weight larger by a twentieth."""
    kernel *= 1.05


def flip_sign(kernel: NDArray[np.floating]) -> None:
    """Turn the sign of one output channel."""
    kernel[0] *= -1


def swap_channels(kernel: NDArray[np.floating]) -> None:
    """Exchange two output channels of one half, as groups have them."""
    kernel[[0, 1]] = kernel[[1, 0]]


def poison(kernel: NDArray[np.floating]) -> None:
    """Make one weight not a number."""
    kernel.flat[0] = np.nan


def damage_checkpoint(source: Path, target: Path, change: Callable[[ParNet], None]) -> Path:
    """Write a copy of a checkpoint whose network was changed."""
    opened = open_card(source)
    network = load_network(opened)
    with torch.no_grad():
        change(network)
    card = opened.manifest
    save_checkpoint(target, network, architecture=card.architecture, preprocessing=card.preprocessing)
    return target


def in_block(block: str, change: Change) -> Callable[[ParNet], None]:
    """Return the change of a block's largest kernel: its 3x3 convolution where it has one."""

    def apply(network: ParNet) -> None:
        modules = network.get_submodule(block).modules()
        kernels = [module.weight for module in modules if isinstance(module, nn.Conv2d | nn.Linear)]
        change(max(kernels, key=lambda kernel: (kernel.shape[-1] == 3, kernel.numel())).numpy())

    return apply


def damage_bundle(source: Path, target: Path, stage: str, block: str, change: Change) -> Path:
    """Write a copy of a bundle in one of whose stages a block's largest kernel was changed."""
    shutil.copytree(source, target)
    path = target / f"{stage}.onnx"
    model = onnx.load(path)
    weights = {initializer.name: initializer for initializer in model.graph.initializer}
    prefix = block.replace(".", "/") + "/"
    readers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm") and node.name.startswith(prefix)]
    chosen = max((weights[node.input[1]] for node in readers), key=lambda entry: (entry.dims[-1] == 3, entry.raw_data))
    kernel = numpy_helper.to_array(chosen).copy()
    change(kernel)
    chosen.CopyFrom(numpy_helper.from_array(kernel, chosen.name))
    onnx.save(model, path)
    write_manifest(target / "bundle.json", _recorded_anew(target, stage))
    open_bundle(target)
    return target


def _recorded_anew(folder: Path, stage: str) -> Bundle:
    """Return the manifest of a bundle with the record of one stage's file taken anew."""
    manifest, _ = read_manifest(folder / "bundle.json", Bundle, kind="bundle", schema_version=SCHEMA_VERSION)
    stages = tuple(
        entry.model_copy(update={"file": FileRecord.of(folder / entry.file.name)}) if entry.name == stage else entry
        for entry in manifest.stages
    )
    return manifest.model_copy(update={"stages": stages})
