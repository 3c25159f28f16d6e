"""Tell weights from what servers and proxies send in their place, by their bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from parnet_deploy.errors import DownloadError

HEAD_BYTES = 512
# torch.save writes a zip archive, or a bare pickle (protocol 2 and later) before torch 1.6.
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_FOREIGN = (
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<?xml", "an XML document"),
    (b"<", "a web page or an XML document"),
    (b"{", "a JSON document"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%pdf", "a PDF"),
)


def refuse_foreign(head: bytes, *, content_type: str | None, where: str | Path) -> None:
    """Raise `DownloadError` unless a file that starts with `head` can be one that torch wrote."""
    if head.startswith((_ZIP, _PICKLE)):
        return
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    found = next((what for start, what in _FOREIGN if text.startswith(start)), None)
    what = found or ("an empty file" if not head else f"a file that starts with {head[:8]!r}")
    told = f" ({content_type})" if content_type else ""
    raise DownloadError(
        f"{what}{told}, not weights that torch saved",
        where=where,
        remedy="open the address in a browser: a login page, a proxy or an error may stand in for the file",
    )


def checked_chunks(chunks: Iterable[bytes], *, content_type: str | None, where: str) -> Iterator[bytes]:
    """Pass chunks on once the first bytes are known to be weights; raise `DownloadError` if they are not."""
    head, is_known = b"", False
    for chunk in chunks:
        if is_known:
            yield chunk
            continue
        head += chunk
        if len(head) >= HEAD_BYTES:
            refuse_foreign(head[:HEAD_BYTES], content_type=content_type, where=where)
            is_known = True
            yield head
    if not is_known:
        refuse_foreign(head, content_type=content_type, where=where)
        yield head


def refuse_cut_short(path: Path, *, where: str | Path) -> None:
    """Raise `DownloadError` if a file is a zip archive without its end, where the archive's directory is.

    So a length that a server got wrong, or never told, is noticed. Files of torch before 1.6 have no such end; whether
    they are whole is seen when they are imported.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    refuse_foreign(head, content_type=None, where=where)
    if head.startswith(_ZIP) and not _is_whole_zip(path):
        raise DownloadError(
            f"the file is cut short: a zip archive of {path.stat().st_size} bytes without its end",
            where=where,
            remedy="the source holds or sends only part of the file; take another one with --from",
        )


def _is_whole_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
