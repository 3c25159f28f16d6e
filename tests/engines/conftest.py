"""Toy bundles for the tests of the target side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from parnet_deploy.artifacts.schemas import BatchRange
from tests.engines import toy_bundles


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Write a toy bundle under `tmp_path`."""

    def make(cut: str = "diamond", precision: str = "fp32", batch: tuple[int, int, int] = (1, 1, 1)) -> Path:
        sizes = BatchRange(min=batch[0], opt=batch[1], max=batch[2])
        return toy_bundles.make_bundle(tmp_path / f"bundle-{cut}-{precision}", cut, precision, sizes)

    return make
