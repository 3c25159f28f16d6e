"""Renames that lose nothing: over nothing, and as an exchange."""

from __future__ import annotations

from pathlib import Path

import pytest

from parnet_deploy.artifacts import renames
from parnet_deploy.artifacts.renames import exchange, rename_new


@pytest.fixture(params=["in one step", "without renameat2"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A system with that call, and one without."""
    if request.param == "without renameat2":
        monkeypatch.setattr(renames, "_renameat2", lambda: None)
    return str(request.param)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_new_path_is_renamed_to(tmp_path: Path, is_folder: bool) -> None:
    source = tmp_path / "a"
    source.mkdir() if is_folder else source.write_text("a")
    rename_new(source, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("there", ["file", "folder", "link"])
def test_nothing_is_renamed_over_what_is_there(tmp_path: Path, there: str) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_text("a")
    if there == "file":
        target.write_text("b")
    elif there == "folder":
        target.mkdir()
    else:
        target.symlink_to("nowhere")
    with pytest.raises(FileExistsError):
        rename_new(source, target)
    assert source.read_text() == "a"
    assert target.is_symlink() or target.exists()


def test_paths_change_places(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    (one / "x").write_text("1")
    other.write_text("2")
    if not exchange(one, other):
        pytest.skip("this kernel or file system has no RENAME_EXCHANGE")
    assert (other / "x").read_text() == "1"
    assert one.read_text() == "2"


def test_an_exchange_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    if exchange(tmp_path / "one", tmp_path / "one"):
        with pytest.raises(FileNotFoundError):
            exchange(tmp_path / "one", tmp_path / "nowhere")


def test_without_the_call_nothing_is_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renames, "_renameat2", lambda: None)
    (tmp_path / "one").write_text("1")
    (tmp_path / "other").write_text("2")
    assert exchange(tmp_path / "one", tmp_path / "other") is False
    assert (tmp_path / "one").read_text() == "1"
