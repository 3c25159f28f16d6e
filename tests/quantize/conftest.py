"""Bundles to quantise: the shipped digits network, and a small one of two streams whose answers mean nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.artifacts.schemas import BatchRange, NetworkConfig, Preprocessing
from parnet_deploy.quantize import QuantizeOptions, quantize_bundle

DIGITS = Path(__file__).parents[2] / "models" / "parnet_nano_digits.safetensors"
SMALL = NetworkConfig(stem=(8,), planes=(8, 12), num_blocks=(1, 1), last_planes=16, num_classes=5)


@pytest.fixture(scope="session")
def digits_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network, fused and exported, whole."""
    from parnet_deploy.cli.main import run_app

    folder = tmp_path_factory.mktemp("digits")
    fused, bundle = folder / "fused.safetensors", folder / "bundle"
    assert run_app(["fuse", str(DIGITS), "-o", str(fused)]) == 0
    assert run_app(["export", str(fused), "-o", str(bundle), "--dynamic-batch", "1:8:16"]) == 0
    return bundle


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused two-stream network with random weights, for 32 pixels, whole."""
    from parnet_deploy.export import ExportOptions, export_bundle
    from parnet_deploy.fusion import fuse
    from parnet_deploy.models.checkpoints import save_checkpoint
    from parnet_deploy.models.initialization import create_random_network

    folder = tmp_path_factory.mktemp("small")
    network = fuse(create_random_network(SMALL, seed=2))
    preprocessing = Preprocessing(input_size=(3, 32, 32), crop_pct=1.0)
    save_checkpoint(folder / "fused.safetensors", network, architecture="small", preprocessing=preprocessing)
    batch = BatchRange(min=1, opt=2, max=4)
    export_bundle(folder / "fused.safetensors", folder / "bundle", ExportOptions(batch=batch))
    return folder / "bundle"


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images without labels: coarse coloured patterns under noise."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(40):
        patches = random.integers(0, 200, (4, 4, 3)).repeat(8, axis=0).repeat(8, axis=1)
        pixels = (patches + random.integers(0, 56, (32, 32, 3))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="session")
def small_quantized(
    small_bundle: Path, photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function (target, precision, partition, weight_bits=8) that returns the small network quantised so, once."""
    made: dict[tuple[str, str, str, int], Path] = {}

    def get(target: str, precision: str, partition: str, weight_bits: int = 8) -> Path:
        key = target, precision, partition, weight_bits
        if key not in made:
            output = tmp_path_factory.mktemp("quantized") / "-".join(map(str, key))
            options = QuantizeOptions(
                target=target,
                precision=precision,
                weight_bits=weight_bits,
                partition=partition,
                method="min-max",
                images=12,
                max_drop=100,
            )
            quantize_bundle(small_bundle, str(photographs), output, options)
            made[key] = output
        return made[key]

    return get
