"""Toy bundles for the tests of the target side."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from parnet_deploy.artifacts.schemas import BatchRange


@pytest.fixture(scope="session")
def toys() -> ModuleType:
    """The module that makes toy bundles and their reference numbers."""
    spec = importlib.util.spec_from_file_location("toy_bundles", Path(__file__).with_name("toy_bundles.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make_bundle(toys: ModuleType, tmp_path: Path) -> Callable[..., Path]:
    """Write a toy bundle under `tmp_path`."""

    def make(cut: str = "diamond", precision: str = "fp32", batch: tuple[int, int, int] = (1, 1, 1)) -> Path:
        sizes = BatchRange(min=batch[0], opt=batch[1], max=batch[2])
        bundle: Path = toys.make_bundle(tmp_path / f"bundle-{cut}-{precision}", cut, precision, sizes)
        return bundle

    return make
