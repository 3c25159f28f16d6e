"""Mapped files: the file's bytes, also while pages are given back, and never more of them in memory than were read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.mapped import MappedFile
from parnet_deploy.runtime import Session

PAGES = 300
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps, which only Linux has")


def smaps_kib(path: Path, *keys: str) -> tuple[int, ...]:
    """Return figures of this process's mappings of a file, in KiB."""
    totals = dict.fromkeys(keys, 0)
    is_wanted = found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split(" ")[0] and not value.endswith("kB"):
            is_wanted = line.endswith(str(path))
            found |= is_wanted
        elif is_wanted and key in totals:
            totals[key] += int(value.split()[0])
    assert found, "the file is not mapped"
    return tuple(totals.values())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of some pages of noise."""
    path = tmp_path / "weights"
    path.write_bytes(np.random.default_rng(0).bytes(PAGES * 4096 + 17))
    return path


def test_a_mapped_file_is_its_bytes_again_and_again(file: Path) -> None:
    mapped = MappedFile(file)
    content = np.frombuffer(file.read_bytes(), np.uint8)
    np.testing.assert_array_equal(mapped.array, content)
    mapped.give_back()
    np.testing.assert_array_equal(mapped.array, content)
    with mapped.giving_back():
        for _ in range(300):
            np.testing.assert_array_equal(mapped.array, content)


@on_linux
def test_pages_are_given_back(file: Path) -> None:
    mapped = MappedFile(file)
    mapped.array.sum()
    assert smaps_kib(file, "Rss")[0] > PAGES * 4
    mapped.give_back()
    assert smaps_kib(file, "Rss") == (0,)
    with mapped.giving_back():
        mapped.array.sum()
    assert smaps_kib(file, "Rss") == (0,)


def test_an_empty_file_cannot_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(ValueError, match="empty file"):
        MappedFile(tmp_path / "empty")


@on_linux
def test_openvino_reads_its_engine_and_never_writes_to_it(make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    """What it wrote would be lost with the pages that are given back."""
    pytest.importorskip("openvino")
    plan = build_plan(make_bundle("whole", batch=(1, 2, 4)), tmp_path / "plan", backend="openvino")
    engine = plan / open_plan(plan).manifest.engines[0].file.name
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16), np.float32)
    with Session.open(plan) as session:
        first = session.infer(images)
        assert smaps_kib(engine, "Private_Dirty", "Shared_Dirty") == (0, 0)
        np.testing.assert_array_equal(session.infer(images), first)
        assert smaps_kib(engine, "Private_Dirty", "Shared_Dirty") == (0, 0)
