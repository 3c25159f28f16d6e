"""Artefacts are written whole or not at all, and manifests are read with suspicion."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from parnet_deploy.artifacts import files
from parnet_deploy.artifacts.files import (
    manifest_bytes,
    read_manifest,
    refuse_existing,
    replacing_file,
    replacing_folder,
    sha256_of_bytes,
    sha256_of_file,
    write_manifest,
)
from parnet_deploy.artifacts.renames import exchange
from parnet_deploy.errors import ArtifactError, OutputExistsError

Replacing = Callable[..., AbstractContextManager[Path]]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Return everything below a folder, hidden or not: bytes of files, None for folders."""
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in folder.rglob("*")}


def fill(temporary: Path, text: str) -> None:
    """Write new content where a context manager asked for it."""
    if temporary.is_dir():
        (temporary / "bundle.json").write_text(text)
        (temporary / "inner").mkdir()
        (temporary / "inner" / "x.onnx").write_text(text)
    else:
        temporary.write_text(text)


def write_new(replacing: Replacing, path: Path, then: Callable[[], object], *, force: bool = True) -> None:
    """Write new content, and do something before it takes its place."""
    with replacing(path, force=force) as temporary:
        fill(temporary, "new")
        then()


def raising(error: BaseException) -> Callable[[], object]:
    """Return a function that raises an error."""

    def fail() -> None:
        raise error

    return fail


def failing_renames(patch: pytest.MonkeyPatch, *which: int) -> Callable[[], object]:
    """Return a function after which some renames, counted from 1, fail."""
    right, calls = Path.replace, itertools.count(1)

    def replace(self: Path, target: Path) -> Path:
        if next(calls) in which:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return right(self, target)

    return lambda: patch.setattr(Path, "replace", replace)


@pytest.fixture(params=["file", "folder"])
def kind(request: pytest.FixtureRequest) -> str:
    """What is replaced."""
    return str(request.param)


@pytest.fixture
def replacing(kind: str) -> Replacing:
    """The context manager for it."""
    return replacing_file if kind == "file" else replacing_folder


@pytest.fixture
def existing(kind: str, tmp_path: Path) -> Path:
    """An output that is there already, in a folder with nothing else."""
    path = tmp_path / "place" / "out"
    path.parent.mkdir()
    if kind == "file":
        path.write_text("old")
    else:
        path.mkdir()
        (path / "bundle.json").write_text("old")
        (path / "gone.onnx").write_text("old")
    return path


def test_the_output_appears_whole_with_its_parents(replacing: Replacing, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "out"
    with replacing(path, force=False) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".out.partial-")
        fill(temporary, "new")
        assert not path.exists()
    assert list(path.parent.iterdir()) == [path]
    mode = path.stat().st_mode & 0o777
    assert mode == (0o755 if path.is_dir() else 0o644)


def test_existing_output_is_refused_before_anything_is_made(replacing: Replacing, existing: Path) -> None:
    before = snapshot(existing.parent)
    with (
        pytest.raises(OutputExistsError, match=r"(?s)already exists.*--force") as caught,
        replacing(existing, force=False),
    ):
        pytest.fail("the block must not run")
    assert caught.value.where == str(existing)
    assert caught.value.exit_code == 2
    assert snapshot(existing.parent) == before


def test_force_replaces_everything(replacing: Replacing, existing: Path, kind: str) -> None:
    with replacing(existing, force=True) as temporary:
        fill(temporary, "new")
        assert b"old" in snapshot(existing.parent).values()
    if kind == "file":
        assert snapshot(existing.parent) == {"out": b"new"}
    else:
        assert snapshot(existing) == {"bundle.json": b"new", "inner": None, "inner/x.onnx": b"new"}
        assert list(existing.parent.iterdir()) == [existing]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), ArtifactError("no")])
def test_an_exception_inside_leaves_the_old_content_and_nothing_else(
    replacing: Replacing, existing: Path, error: BaseException
) -> None:
    before = snapshot(existing.parent)
    with pytest.raises(type(error)) as caught:
        write_new(replacing, existing, raising(error))
    assert caught.value is error
    assert snapshot(existing.parent) == before


def test_an_operating_system_error_inside_becomes_an_artifact_error(replacing: Replacing, existing: Path) -> None:
    before = snapshot(existing.parent)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ArtifactError, match=r"cannot be written \(No space left on device\)") as caught:
        write_new(replacing, existing, raising(full))
    assert caught.value.where == str(existing)
    assert caught.value.remedy == "check permissions and free space"
    assert snapshot(existing.parent) == before


def test_output_that_appears_meanwhile_is_kept(replacing: Replacing, tmp_path: Path) -> None:
    path = tmp_path / "place" / "out"
    with pytest.raises(OutputExistsError):
        write_new(replacing, path, lambda: path.write_text("by another process"), force=False)
    assert snapshot(path.parent) == {"out": b"by another process"}


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system on which two paths cannot change places in one step."""
    monkeypatch.setattr(files, "exchange", lambda *_: False)


@pytest.mark.usefixtures("no_exchange")
@pytest.mark.parametrize("failing", [1, 2])
def test_a_rename_that_fails_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    path = tmp_path / "place" / "out"
    path.mkdir(parents=True)
    (path / "plan.json").write_text("old")
    with pytest.raises(ArtifactError, match="Permission denied"):
        write_new(replacing_folder, path, failing_renames(monkeypatch, failing))
    assert snapshot(path.parent) == {"out": None, "out/plan.json": b"old"}


@pytest.mark.usefixtures("no_exchange")
def test_old_content_survives_even_where_it_cannot_be_brought_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "place" / "out"
    path.mkdir(parents=True)
    (path / "plan.json").write_text("old")
    with pytest.raises(ArtifactError, match="Permission denied"):
        write_new(replacing_folder, path, failing_renames(monkeypatch, 2, 3))
    assert list(snapshot(path.parent).values()) == [None, b"old"]


@pytest.mark.usefixtures("no_exchange")
def test_force_replaces_a_folder_also_by_two_renames(tmp_path: Path) -> None:
    path = tmp_path / "place" / "out"
    path.mkdir(parents=True)
    (path / "plan.json").write_text("old")
    write_new(replacing_folder, path, lambda: None)
    assert snapshot(path.parent) == {"out": None, **{f"out/{name}": data for name, data in snapshot(path).items()}}
    assert (path / "bundle.json").read_text() == "new"


def test_a_forced_folder_is_there_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "plan.json").write_text("old")
    if not exchange(path, path):
        pytest.skip("this kernel or file system has no RENAME_EXCHANGE")
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("the old folder was moved away first"))
    write_new(replacing_folder, path, lambda: None)
    assert (path / "bundle.json").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_no_folder_to_replace(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "plan.json").write_text("old")
    (tmp_path / "out").symlink_to("precious")
    before = snapshot(tmp_path)
    with pytest.raises(OutputExistsError, match="is a link"), replacing_folder(tmp_path / "out", force=True):
        pytest.fail("the block must not run")
    assert snapshot(tmp_path) == before
    assert (tmp_path / "out").is_symlink()


def test_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    os.mkfifo(path)
    with pytest.raises(OutputExistsError, match="a device or a pipe"), replacing_file(path, force=True):
        pytest.fail("the block must not run")
    assert path.is_fifo()


def test_a_dangling_link_is_output_that_exists(replacing: Replacing, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(OutputExistsError, match="already exists"), replacing(tmp_path / "out", force=False):
        pytest.fail("the block must not run")
    assert (tmp_path / "out").is_symlink()


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(OutputExistsError, match="something that this tool did not write"),
        replacing_folder(home, force=True),
    ):
        pytest.fail("the block must not run")
    assert snapshot(tmp_path) == {"home": None, "home/thesis.tex": b"years of work"}


def test_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.mkdir()
    with replacing_folder(path, force=True) as temporary:
        fill(temporary, "new")
    assert (path / "bundle.json").read_text() == "new"


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("a file")
    with pytest.raises(OutputExistsError, match="is a file, not a folder"), replacing_folder(path, force=True):
        pytest.fail("the block must not run")
    assert path.read_text() == "a file"


def test_a_file_in_the_way_of_the_parent_is_named(replacing: Replacing, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with (
        pytest.raises(ArtifactError, match="cannot make the folder") as caught,
        replacing(tmp_path / "a" / "out", force=False),
    ):
        pytest.fail("the block must not run")
    assert caught.value.where == str(tmp_path / "a")


def test_refuse_existing(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "none", force=False)
    refuse_existing(tmp_path, force=True)
    with pytest.raises(OutputExistsError):
        refuse_existing(tmp_path, force=False)


@given(data=st.binary(max_size=4096))
def test_hashes_are_sha256(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "hashed"
    path.write_bytes(data)
    assert sha256_of_file(path) == sha256_of_bytes(data) == hashlib.sha256(data).hexdigest()


class Manifest(BaseModel):
    """A manifest of an artefact that does not exist."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["toy"] = "toy"
    schema_version: Literal[3] = 3
    text: str
    numbers: dict[str, float] = {}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the manifest lies."""
    folder = tmp_path / "toy"
    folder.mkdir()
    return folder / "toy.json"


def read(path: Path) -> tuple[Manifest, str]:
    """Read the toy's manifest."""
    return read_manifest(path, Manifest, kind="toy", schema_version=3)


def test_manifests_are_written_one_way_and_named_by_their_hash(path: Path) -> None:
    manifest = Manifest(text="näh", numbers={"b": 1 / 3, "a": 2.0})
    write_manifest(path, manifest)
    assert path.read_text().endswith("}\n")
    assert list(json.loads(path.read_text())) == ["content_sha256", "kind", "numbers", "schema_version", "text"]
    assert read(path) == (manifest, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"kind": "toy"', "not valid JSON"),
        (b"\xff\xff", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b"[1]", "of kind None, not 'toy'"),
        (b'{"kind": "bundle"}', "of kind 'bundle', not 'toy'"),
        (b'{"kind": "toy"}', "schema version None, but this version of parnet-deploy reads 3"),
        (b'{"kind": "toy", "schema_version": 4, "text": "x"}', "schema version 4"),
        (b'{"kind": "toy", "schema_version": 2, "text": "x"}', "schema version 2"),
        (b'{"kind": "toy", "schema_version": "3", "text": "x"}', "schema version '3'"),
        (b'{"kind": "toy", "schema_version": 3}', "field 'text': Field required"),
        (b'{"kind": "toy", "schema_version": 3, "text": 1}', "field 'text'"),
        (b'{"kind": "toy", "schema_version": 3, "text": "x", "new": 1}', "field 'new': Extra inputs"),
        (b'{"kind": "toy", "schema_version": 3, "text": "x", "numbers": {"a": "b"}}', "field 'numbers.a'"),
    ],
)
def test_other_manifests_are_refused_with_their_place(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message) as caught:
        read(path)
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) <= 2


def test_a_newer_schema_says_what_to_do(path: Path) -> None:
    path.write_text('{"kind": "toy", "schema_version": 4}')
    with pytest.raises(ArtifactError) as caught:
        read(path)
    assert caught.value.remedy == "make the toy again, or use the version of parnet-deploy that wrote it"


def test_missing_and_enormous_manifests_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"no toy\.json here, so this is no toy"):
        read(path)
    path.mkdir()
    with pytest.raises(ArtifactError, match=r"no toy\.json here"):
        read(path)
    path.rmdir()
    write_manifest(path, Manifest(text="x" * 100))
    monkeypatch.setattr(files, "_MAX_MANIFEST_BYTES", 100)
    with pytest.raises(ArtifactError, match="too large to be the manifest of a toy"):
        read(path)


def test_every_flipped_bit_of_a_sealed_manifest_is_noticed_or_says_the_same(path: Path) -> None:
    write_manifest(path, Manifest(text="näh", numbers={"a": 1.5e-7, "b": 2.0}))
    data, (right, _) = path.read_bytes(), read(path)
    for offset in range(len(data)):
        for bit in range(8):
            path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :])
            with suppress(ArtifactError):
                assert read(path)[0] == right


def test_a_manifest_by_hand_needs_no_seal(path: Path) -> None:
    manifest = Manifest(text="x")
    path.write_bytes(manifest_bytes(manifest))
    assert read(path)[0] == manifest
    write_manifest(path, manifest)
    path.write_text(path.read_text().replace('"x"', '"y"'))
    with pytest.raises(ArtifactError, match="content_sha256") as caught:
        read(path)
    assert "make the toy again, or remove content_sha256" in str(caught.value.remedy)
