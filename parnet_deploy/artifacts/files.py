"""Write artefacts whole or not at all, and check them by hash when they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from parnet_deploy.artifacts.renames import exchange, rename_new
from parnet_deploy.errors import ArtifactError, OutputExistsError

ModelT = TypeVar("ModelT", bound=BaseModel)

_MAX_MANIFEST_BYTES = 64 * 2**20
# The field of a manifest that holds the sha256 of the others.
SEAL = "content_sha256"


def sha256_of_bytes(data: bytes) -> str:
    """Return the sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the sha256 of a file in hex, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache_dir(kind: str) -> Path:
    """Return the user's cache folder for one kind of file: below `XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parnet-deploy" / kind


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise `OutputExistsError` if `path` exists and `force` is not set."""
    if os.path.lexists(path) and not force:
        raise _already_exists(path)


def refuse_file(path: Path, *, force: bool) -> None:
    """Raise `OutputExistsError` unless a file may be written to `path`, before the work is done."""
    refuse_existing(path, force=force)
    if path.is_dir():
        raise OutputExistsError("the output is a folder, not a file", where=path, remedy="choose another name")
    if path.exists() and not path.is_file():
        # A device or a pipe would be replaced by a file of that name, for everybody.
        raise OutputExistsError("the output is a device or a pipe", where=path, remedy="choose the name of a file")


def refuse_source(output: Path, source: Path, what: str) -> None:
    """Raise `OutputExistsError`, which says `what`, if an output is what it is made from, `force` or not."""
    if output.exists() and output.resolve() == source.resolve():
        raise OutputExistsError(what, where=output, remedy="choose another -o")


def _already_exists(path: Path) -> OutputExistsError:
    return OutputExistsError("the output already exists", where=path, remedy="choose another -o, or pass --force")


def _temporary_sibling(path: Path) -> str:
    parent = path.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"cannot make the folder ({error.strerror})",
            where=parent,
            remedy="check permissions and free space",
        ) from error
    return f".{path.name}.partial-"


def unwritable(path: Path, error: OSError) -> ArtifactError:
    """Return the error that says why a file or folder cannot be written."""
    return ArtifactError(
        f"cannot be written ({error.strerror or error})", where=path, remedy="check permissions and free space"
    )


@contextmanager
def replacing_file(path: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only when the block ends well.

    Raises:
        OutputExistsError: `path` exists and `force` is not set.
        ArtifactError: the folder cannot be written.
    """
    refuse_file(path, force=force)
    prefix = _temporary_sibling(path)
    try:
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.chmod(0o644)
        if force:
            temporary.replace(path)
        else:
            _put_new(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _put_new(temporary: Path, path: Path) -> None:
    try:
        rename_new(temporary, path)
    except FileExistsError as error:
        raise _already_exists(path) from error


MANIFEST_NAMES = ("bundle.json", "plan.json", "report.json")


def has_manifest(folder: Path) -> bool:
    """Tell whether a folder is a bundle, a plan or a report."""
    return any((folder / name).exists() for name in MANIFEST_NAMES)


def holds(name: str) -> Callable[[Path], bool]:
    """Return a function that tells whether a folder holds a file of that name."""
    return lambda folder: (folder / name).exists()


def refuse_folder(path: Path, *, force: bool, is_ours: Callable[[Path], bool] = has_manifest) -> None:
    """Raise `OutputExistsError` unless a folder may be written to `path`, before the work is done."""
    refuse_existing(path, force=force)
    if path.is_symlink():
        raise OutputExistsError("the output is a link", where=path, remedy="pass the folder that it leads to")
    if path.exists() and not path.is_dir():
        raise OutputExistsError("the output is a file, not a folder", where=path, remedy="choose another -o")
    if path.is_dir() and any(path.iterdir()) and not is_ours(path):
        what = "another kind of artefact" if has_manifest(path) else "something that this tool did not write"
        raise OutputExistsError(f"the folder holds {what}", where=path, remedy="choose another -o")


@contextmanager
def replacing_folder(path: Path, *, force: bool, is_ours: Callable[[Path], bool] = has_manifest) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that takes its place only when the block ends well.

    An existing folder and the new one change places (with `force`) in one step, so that a reader sees either, also
    after a kill; where the file system cannot do that, by two renames. Only a folder that `is_ours` says was written by
    this tool is replaced.

    Raises:
        OutputExistsError: `path` exists and `force` is not set.
        ArtifactError: the folder cannot be written, or `path` is a file or a link.
    """
    refuse_folder(path, force=force, is_ours=is_ours)
    prefix = _temporary_sibling(path)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield temporary
        for file in temporary.iterdir():
            if file.is_file():
                _sync(file)
        temporary.chmod(0o755)
        if not (force and path.exists()):
            _put_new(temporary, path)
        elif not exchange(temporary, path):
            _exchange_by_two(path, temporary, prefix)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        # After an exchange this is the old folder.
        shutil.rmtree(temporary, ignore_errors=True)


def _exchange_by_two(path: Path, temporary: Path, prefix: str) -> None:
    """Put `temporary` in the place of `path`; where that fails, the old folder comes back."""
    retired = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    try:
        path.replace(retired)
        temporary.replace(path)
    except OSError:
        if not path.exists():
            retired.replace(path)
        raise
    finally:
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def manifest_bytes(manifest: BaseModel) -> bytes:
    """Serialise a manifest the one way that its hash is taken of: sorted keys, two spaces, a final newline."""
    return _json_bytes(manifest.model_dump(mode="json"))


def sealed_bytes(manifest: BaseModel) -> bytes:
    """Serialise a manifest with the sha256 of its content as one more field, by which a changed one is told."""
    content = manifest.model_dump(mode="json")
    return _json_bytes({**content, SEAL: _seal_of(content)})


def _json_bytes(content: Any) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _seal_of(content: Any) -> str:
    """Hash what a manifest says, however it is laid out."""
    return sha256_of_bytes(json.dumps(content, sort_keys=True).encode())


def write_manifest(path: Path, manifest: BaseModel) -> None:
    """Write a manifest, sealed, into a folder that is itself still temporary."""
    path.write_bytes(sealed_bytes(manifest))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def read_json(path: Path, *, kind: str) -> tuple[Any, bytes]:
    """Read a small JSON file of a `kind` of artefact; return its content and its bytes.

    Raises:
        ArtifactError: unreadable, too large, or not JSON.
    """
    try:
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ArtifactError(
                f"too large to be the manifest of a {kind}", where=path, remedy=f"make the {kind} again"
            )
        data = path.read_bytes()
        return json.loads(data, parse_constant=_refuse_constant), data
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not valid JSON ({error})", where=path, remedy=f"make the {kind} again") from error
    except OSError as error:
        raise ArtifactError(
            f"cannot be read ({error.strerror})", where=path, remedy="check the path and its permissions"
        ) from error


def read_manifest(path: Path, schema: type[ModelT], *, kind: str, schema_version: int) -> tuple[ModelT, str]:
    """Read and validate a manifest; return it with its sha256, the identity of the artefact.

    One without a seal, of an earlier version or made by hand, is taken as it is.

    Raises:
        ArtifactError: missing, too large, not JSON, of another kind or schema version, fields that do not fit, or a
            content that was changed after it was sealed.
    """
    if not path.is_file():
        raise ArtifactError(f"no {path.name} here, so this is no {kind}", where=path.parent, remedy=f"pass a {kind}")
    content, data = read_json(path, kind=kind)
    found_kind = content.get("kind") if isinstance(content, dict) else None
    if found_kind != kind:
        raise ArtifactError(
            f"the manifest is of kind {found_kind!r}, not {kind!r}", where=path, remedy=f"pass a {kind}"
        )
    found_version = content.get("schema_version")
    if found_version != schema_version or isinstance(found_version, bool):
        raise ArtifactError(
            f"schema version {found_version!r}, but this version of parnet-deploy reads {schema_version}",
            where=path,
            remedy=f"make the {kind} again, or use the version of parnet-deploy that wrote it",
        )
    seal = content.pop(SEAL, None)
    manifest = validate(schema, content, where=path, remedy=f"make the {kind} again")
    if seal is not None and seal != _seal_of(content):
        raise ArtifactError(
            f"the content does not have the sha256 that its {SEAL} says",
            where=path,
            remedy=f"the file was changed; make the {kind} again, or remove {SEAL} if the change is meant",
        )
    return manifest, sha256_of_bytes(data)


def validate(schema: type[ModelT], content: Any, *, where: Path, remedy: str) -> ModelT:
    """Validate what a JSON file holds; raise `ArtifactError` naming the first field that does not fit."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"field {field!r}: {first['msg']}", where=where, remedy=remedy) from error
