"""Keep downloads, each with a record of its size and sha256 from when it was first seen.

`ASSET` has its record in `ASSET.json`. While it is fetched it is `ASSET.partial`, with `ASSET.partial.json`
(`download`), under `ASSET.lock`. The record is written before the file takes its name, so a file without one is never
taken for a download.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout

from parnet_deploy.artifacts.files import manifest_bytes, read_manifest, replacing_file, unwritable, user_cache_dir
from parnet_deploy.artifacts.schemas import FileRecord, Frozen
from parnet_deploy.errors import ArtifactError, DownloadError

DOWNLOAD_SCHEMA_VERSION: Final = 1


class Download(Frozen):
    """`ASSET.json`: what a download was when it was first seen; `first_seen` is UTC, `source` a URL or a path."""

    schema_version: Literal[1] = DOWNLOAD_SCHEMA_VERSION
    kind: Literal["download"] = "download"
    file: FileRecord
    source: str
    release: str
    first_seen: str

    def refuse_change(self, found: FileRecord, *, where: str | Path, remedy: str) -> None:
        """Raise `DownloadError` with both sizes and hashes if `found` is not the file that was recorded."""
        if (found.sha256, found.size_bytes) != (self.file.sha256, self.file.size_bytes):
            raise DownloadError(
                f"the file is not the one that was first seen on {self.first_seen} from {self.source}\n"
                f"  recorded: {self.file.size_bytes:,} bytes, sha256 {self.file.sha256}\n"
                f"  now:      {found.size_bytes:,} bytes, sha256 {found.sha256}",
                where=where,
                remedy=remedy,
            )


def record_path_of(file: Path) -> Path:
    """Return where the record of a download is."""
    return file.with_name(f"{file.name}.json")


def read_record(file: Path) -> Download | None:
    """Return the record beside a file, or nothing if it is no download; raise `ArtifactError` if it is damaged."""
    path = record_path_of(file)
    if not path.exists():
        return None
    try:
        return read_manifest(path, Download, kind="download", schema_version=DOWNLOAD_SCHEMA_VERSION)[0]
    except ArtifactError as error:
        remedy = f"remove {path.name} and pull with --accept-changed"
        raise ArtifactError(error.what, where=error.where, remedy=remedy) from error


def check_download(file: Path) -> Download | None:
    """Compare a file with the record beside it, if it has one; return the record.

    Raises:
        DownloadError: the file is not what was recorded.
        ArtifactError: the record is damaged.
    """
    record = read_record(file)
    if record is None or not file.is_file():
        return record
    remedy = "remove the file and pull it again; --accept-changed records what comes then, whatever it is"
    record.refuse_change(FileRecord.of(file), where=file, remedy=remedy)
    return record


@dataclass(frozen=True)
class WeightsCache:
    """A folder of downloads; several processes may use it."""

    folder: Path

    @classmethod
    def of_user(cls) -> WeightsCache:
        """Return the user's own cache."""
        return cls(user_cache_dir("weights"))

    def path_of(self, asset: str) -> Path:
        """Return where a download is, or would be."""
        return self.folder / asset

    def partial_of(self, asset: str) -> Path:
        """Return where a download is while it is fetched."""
        return self.folder / f"{asset}.partial"

    def find(self, asset: str) -> Download | None:
        """Return the record of a download that is there and is what was recorded; nothing if it is not there.

        Raises:
            DownloadError: the file is not what was recorded.
            ArtifactError: the record is damaged, or the file cannot be read.
        """
        path = self.path_of(asset)
        try:
            return check_download(path) if path.is_file() else None
        except OSError as error:
            raise ArtifactError(
                f"cannot be read ({error.strerror})",
                where=path,
                remedy="remove the file, and pull it again",
            ) from error

    def adopt(self, asset: str, record: Download) -> None:
        """Let the partial download, which `record` describes, take its place.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        path = self.path_of(asset)
        try:
            path.unlink(missing_ok=True)  # never an old file beside a new record
            with replacing_file(record_path_of(path), force=True) as temporary:
                temporary.write_bytes(manifest_bytes(record))
            self.partial_of(asset).replace(path)
        except OSError as error:
            raise unwritable(path, error) from error

    def forget(self, asset: str) -> None:
        """Remove a download and its record."""
        self.path_of(asset).unlink(missing_ok=True)
        record_path_of(self.path_of(asset)).unlink(missing_ok=True)

    @contextmanager
    def locked(self, asset: str, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Hold the right to fetch `asset`; while another process does, call `on_wait` once and wait.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        lock = FileLock(self.folder / f"{asset}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                on_wait()
                lock.acquire()
        except OSError as error:
            raise unwritable(self.folder, error) from error
        try:
            yield
        finally:
            lock.release()
