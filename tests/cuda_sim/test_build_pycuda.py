"""Building pycuda for the tests: what is missing is kept for them to tell, and what is built is not built again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cuda_sim import build_pycuda


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "pycuda"
    monkeypatch.setattr(build_pycuda, "pycuda_folder", lambda: folder)
    return folder


def test_without_a_compiler_the_reason_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_pycuda.why_not_built() == "nobody has tried (make pycuda)"
    monkeypatch.setenv("PATH", "")
    assert build_pycuda.main() == 1
    assert "apt-get install g++" in build_pycuda.why_not_built()
    assert not folder.exists()


def test_without_an_index_pips_reason_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_pycuda, "build_libcuda", lambda _: None)
    monkeypatch.setattr(build_pycuda.shutil, "which", lambda name: name)
    monkeypatch.setattr(build_pycuda, "find_header", lambda _: folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert build_pycuda.main() == 1
    assert re.match(r"pip install (nvidia-\S+): Could not find a version .* \1 ", build_pycuda.why_not_built())
    assert not folder.exists()


def test_what_is_there_is_not_built_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(build_pycuda, "build", lambda _: pytest.fail("built again"))
    assert build_pycuda.main() == 0
