"""Small checkpoints to save, load and damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from parnet_deploy.artifacts.schemas import NetworkConfig, Preprocessing
from parnet_deploy.models.checkpoints import save_checkpoint
from parnet_deploy.models.parnet import ParNet


@pytest.fixture(scope="session")
def small_config() -> NetworkConfig:
    """Three streams, a few channels."""
    return NetworkConfig(stem=(4, 6), planes=(6, 8, 12), num_blocks=(1, 1, 2), last_planes=10, num_classes=3)


@pytest.fixture(scope="session")
def small_network(small_config: NetworkConfig, create_rough_network: Callable[..., ParNet]) -> ParNet:
    """A network that no test changes."""
    return create_rough_network(small_config, seed=11)


@pytest.fixture
def checkpoint(small_network: ParNet, tmp_path: Path) -> Path:
    """A checkpoint of the small network, in a folder of its own."""
    path = tmp_path / "small.safetensors"
    save_checkpoint(
        path, small_network, architecture="parnet", preprocessing=Preprocessing(), label_names=("a", "b", "c")
    )
    return path


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread: None) -> None:
    """Apply `one_thread` to all tests here: most networks are tiny, and the large ones are bound by memory."""
