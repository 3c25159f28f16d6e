"""Small runs for the tests of training."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from parnet_deploy.datasets.images import ImageDataset
from parnet_deploy.training.settings import RunSettings


@pytest.fixture(scope="session")
def small_runs() -> ModuleType:
    """The module that makes small runs; its `__file__` is the script that dies."""
    spec = importlib.util.spec_from_file_location("small_runs", Path(__file__).with_name("small_runs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def data(small_runs: ModuleType) -> ImageDataset:
    """56 digits to train on, 30 held out."""
    return small_runs.small_digits()  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def settings(small_runs: ModuleType, data: ImageDataset) -> RunSettings:
    """Four epochs of three updates on a network of two streams at 16 px."""
    return small_runs.small_settings(data)  # type: ignore[no-any-return]
