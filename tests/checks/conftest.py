"""Small networks of every kind as checkpoints, bundles and plans; each is made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from parnet_deploy.artifacts.schemas import BatchRange, NetworkConfig, Preprocessing
from parnet_deploy.engines import build_plan
from parnet_deploy.export import ExportOptions, export_bundle
from parnet_deploy.fusion import fuse
from parnet_deploy.models.checkpoints import save_checkpoint
from parnet_deploy.models.initialization import create_random_network

PREPROCESSING = Preprocessing(input_size=(3, 64, 64))
# Every kind of block, and every number of streams.
NETWORKS = {
    "one_stream": NetworkConfig(stem=(8, 8, 12), planes=(12,), num_blocks=(2,), last_planes=20, num_classes=7),
    "cifar": NetworkConfig(
        stem=(8, 8), stem_stride=1, planes=(8, 12), num_blocks=(2, 1), last_planes=16, last="conv1x1", num_classes=7
    ),
    "three_streams": NetworkConfig(
        stem=(6, 8), planes=(8, 12, 16), num_blocks=(2, 2, 2), last_planes=20, num_classes=7
    ),
    "four_streams": NetworkConfig(
        stem=(6,), planes=(6, 8, 12, 16), num_blocks=(1, 1, 1, 1), last_planes=20, num_classes=7, activation="relu"
    ),
}
BUNDLES = {
    "whole": ExportOptions(batch=BatchRange(min=1, opt=2, max=4)),
    "streams": ExportOptions(partition="streams", batch=BatchRange(min=2, opt=2, max=2)),
    "terms": ExportOptions(partition="terms-shared-stem"),
    "half": ExportOptions(partition="streams", precision="fp16"),
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """A function (network, form) that returns a checkpoint."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def make(name: str, form: str) -> Path:
        network = create_random_network(NETWORKS[name], seed=5)
        path = folder / f"{name}_{form}.safetensors"
        save_checkpoint(
            path, network if form == "training" else fuse(network), architecture="small", preprocessing=PREPROCESSING
        )
        return path

    return make


@pytest.fixture(scope="session")
def bundle(
    checkpoint: Callable[[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Path]:
    """A function (network, form, options) that returns a bundle."""
    folder = tmp_path_factory.mktemp("bundles")

    @cache
    def make(name: str, form: str, options: str) -> Path:
        path = folder / f"{name}_{form}_{options}"
        export_bundle(checkpoint(name, form), path, BUNDLES[options])
        return path

    return make


@pytest.fixture(scope="session")
def plan(
    bundle: Callable[[str, str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str, str], Path]:
    """A function (network, form, options) that returns a plan of ONNX Runtime."""
    folder = tmp_path_factory.mktemp("plans")

    @cache
    def make(name: str, form: str, options: str) -> Path:
        path = folder / f"{name}_{form}_{options}"
        build_plan(bundle(name, form, options), path)
        return path

    return make
