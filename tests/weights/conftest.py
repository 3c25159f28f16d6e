"""A release on this machine: a small file that is a zip archive as torch writes them, and a server of it."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from parnet_deploy.weights.cache import WeightsCache
from parnet_deploy.weights.releases import RELEASED, ReleasedWeights
from tests.weights.server import ReleaseServer

PROXY_SETTINGS = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's proxy settings: every server is on it."""
    for name in PROXY_SETTINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def archive(seed: int, size: int = 200_000) -> bytes:
    """Return a zip archive of random bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("net/data.pkl", random.Random(seed).randbytes(size))
    return made.getvalue()


@pytest.fixture(scope="session")
def data() -> bytes:
    """The file as it is served."""
    return archive(1)


@pytest.fixture(scope="session")
def other_data() -> bytes:
    """Another file of the same size."""
    return archive(2)


@pytest.fixture
def server(data: bytes) -> Iterator[ReleaseServer]:
    """A server of the file."""
    with ReleaseServer(data) as running:
        yield running


@pytest.fixture
def weights() -> ReleasedWeights:
    """The weights that are pulled."""
    return RELEASED["parnet_l"]


@pytest.fixture
def cache(tmp_path: Path) -> WeightsCache:
    """A cache that does not exist yet."""
    return WeightsCache(tmp_path / "cache")
