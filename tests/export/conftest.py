"""Checkpoints of small networks with random weights and random statistics, in both forms."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest

from parnet_deploy.artifacts.schemas import BatchRange, NetworkConfig, Preprocessing
from parnet_deploy.export import bundle
from parnet_deploy.fusion import fuse
from parnet_deploy.models.checkpoints import save_checkpoint
from parnet_deploy.models.initialization import create_random_network
from parnet_deploy.models.parnet import ParNet

# One narrow network per number of streams, and the CIFAR form; every one takes 64 pixels.
NETWORKS = {
    "one_stream": NetworkConfig(stem=(8, 8, 12), planes=(12,), num_blocks=(2,), last_planes=20, num_classes=7),
    "two_streams": NetworkConfig(stem=(8, 8), planes=(8, 12), num_blocks=(1, 2), last_planes=20, num_classes=7),
    "three_streams": NetworkConfig(
        stem=(6, 8), planes=(8, 12, 16), num_blocks=(1, 2, 1), last_planes=20, num_classes=7
    ),
    "four_streams": NetworkConfig(
        stem=(6,), planes=(6, 8, 12, 16), num_blocks=(1, 1, 1, 1), last_planes=20, num_classes=7, activation="relu"
    ),
    "cifar": NetworkConfig(
        stem=(6, 6, 6),
        stem_stride=1,
        planes=(6, 12, 24),
        num_blocks=(1, 1, 1),
        last_planes=16,
        last="conv1x1",
        num_classes=7,
    ),
}


@pytest.fixture(scope="session", autouse=True)
def one_export_per_network() -> Iterator[None]:
    """Call torch.onnx once per network, size and batch: it is slow, and every partition starts from the same graph."""
    exported: dict[tuple[object, ...], ir.Model] = {}

    def export_once(model: ParNet, size: tuple[int, int], batch: BatchRange) -> ir.Model:
        weights = hashlib.sha256(b"".join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()
        key = (weights, model.cfg, size, batch)
        if key not in exported:
            exported[key] = export_graph(model, size, batch)
        return exported[key].clone()

    export_graph = bundle.export_graph
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "export_graph", export_once)
        yield


@dataclass(frozen=True)
class CheckpointPair:
    """The same network before and after fusion, on disk."""

    training: Path
    fused: Path


@pytest.fixture(scope="session")
def checkpoint_pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], CheckpointPair]:
    """Return a function from a network's name to its two checkpoints; each is made once."""
    made: dict[str, CheckpointPair] = {}

    def get(name: str) -> CheckpointPair:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            network = create_random_network(NETWORKS[name], seed=1)
            preprocessing = Preprocessing(input_size=(3, 64, 64))
            pair = CheckpointPair(folder / "training.safetensors", folder / "fused.safetensors")
            labels = tuple("abcdefg")
            for path, model in ((pair.training, network), (pair.fused, fuse(network))):
                save_checkpoint(path, model, architecture=name, preprocessing=preprocessing, label_names=labels)
            made[name] = pair
        return made[name]

    return get
