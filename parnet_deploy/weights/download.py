"""Fetch a file over HTTP so that it can be continued: by a range, if the server still has the same file.

What arrived is kept in the partial file, and beside it, in `PARTIAL.json`, the server's own name for the version: a
strong ETag, or the time of the last change. Continuing asks for that version only (`If-Range`, section 13.1.5 of
RFC 9110), and from the last byte that is there, so that a partial file that is whole already needs no rule of its own.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO

import httpx2
from pydantic import ValidationError

from parnet_deploy.artifacts.files import manifest_bytes, unwritable
from parnet_deploy.artifacts.schemas import Frozen
from parnet_deploy.errors import ArtifactError, DownloadError
from parnet_deploy.weights.content import checked_chunks
from parnet_deploy.weights.http import Timeouts, get, http_error, open_client, refused_status
from parnet_deploy.weights.sources import without_secrets

# What is going on, bytes done, bytes in all if they are known.
Progress = Callable[[str, int, int | None], None]


class PartialState(Frozen):
    """`PARTIAL.json`: of which version of which file the partial file is the beginning."""

    url: str
    validator_header: str
    validator: str


def state_path_of(partial: Path) -> Path:
    """Return where the state of a partial file is."""
    return partial.with_name(f"{partial.name}.json")


def discard_partial(partial: Path) -> None:
    """Remove a partial file and its state."""
    for path in (state_path_of(partial), partial):
        path.unlink(missing_ok=True)


def download(url: str, partial: Path, *, timeouts: Timeouts, progress: Progress) -> None:
    """Fetch `url` into `partial`, continuing what is there; where it fails, what arrived is kept.

    Proxies are taken from the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).

    Raises:
        DownloadError: the server cannot be reached, refuses, stalls, breaks off, or sends something else.
        ArtifactError: the partial file cannot be written.
    """
    shown = without_secrets(url)
    state = _read_state(partial, shown)
    with _translated(shown, partial, timeouts), open_client(timeouts) as client:
        if state is None or not _continue(client, url, partial, state, progress):
            with get(client, url, {}) as response:
                _start(response, shown, partial, progress)


@contextmanager
def _translated(shown: str, partial: Path, timeouts: Timeouts) -> Iterator[None]:
    """Turn the errors of HTTP and of writing into this tool's; what cannot be continued is not kept."""
    try:
        yield
    # The last is idna's, of a host's name, which early releases of httpx2 let through.
    except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
        kept = partial.stat().st_size if _read_state(partial, shown) else 0
        if not kept:
            discard_partial(partial)
        raise http_error(error, where=shown, kept=kept, timeouts=timeouts) from error
    except OSError as error:
        raise unwritable(partial, error) from error


def _continue(client: httpx2.Client, url: str, partial: Path, state: PartialState, progress: Progress) -> bool:
    """Fetch what is missing, or all of it if the file changed; return whether the answer was of use."""
    size = partial.stat().st_size
    with get(client, url, {"Range": f"bytes={size - 1}-", "If-Range": state.validator}) as response:
        if response.status_code not in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            _start(response, state.url, partial, progress)
            return True
        total = _total_of_range(response, first=size - 1)
        # A server that ignores If-Range is noticed here, as is one that answers with another range.
        if total is None or response.headers.get(state.validator_header) != state.validator:
            return False
        _refuse_full_disk(partial, total - size)
        chunks = response.iter_raw()
        overlap = next(chunks, b"")
        with partial.open("r+b") as file:
            file.seek(size - 1)
            if file.read(1) != overlap[:1]:
                return False
            file.write(overlap[1:])
            done = _write(file, chunks, size - 1 + len(overlap), total, progress)
    _check_length(done, total, where=state.url)
    return True


def _start(response: httpx2.Response, shown: str, partial: Path, progress: Progress) -> None:
    """Write the whole file; an older partial file goes only once the new one's first bytes are known to be weights."""
    if response.status_code != HTTPStatus.OK:
        raise refused_status(response.status_code, where=shown)
    coding = response.headers.get("Content-Encoding", "identity")
    if coding != "identity":
        raise DownloadError(f"the server sends the file coded ({coding}), although asked not to", where=shown)
    total = _length_of(response)
    content_type = response.headers.get("Content-Type")
    chunks = checked_chunks(response.iter_raw(), content_type=content_type, where=shown)
    first = next(chunks)
    discard_partial(partial)
    _refuse_full_disk(partial, total or 0)
    with partial.open("wb") as file:
        _write_state(response, shown, partial)
        file.write(first)
        done = _write(file, chunks, len(first), total, progress)
    _check_length(done, total, where=shown)


def _write(file: BinaryIO, chunks: Iterator[bytes], done: int, total: int | None, progress: Progress) -> int:
    """Write chunks behind the `done` bytes that are there; return how many there are then."""
    progress("downloading", done, total)
    for chunk in chunks:
        file.write(chunk)
        done += len(chunk)
        progress("downloading", done, total)
    return done


def _check_length(done: int, total: int | None, *, where: str) -> None:
    if total is not None and done != total:
        raise DownloadError(
            f"the server sent {done:,} bytes and had announced {total:,}", where=where, remedy="run the command again"
        )


def _length_of(response: httpx2.Response) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _total_of_range(response: httpx2.Response, *, first: int) -> int | None:
    """Return the whole file's size, in bytes, if the answer is its end from the byte `first` on."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""), re.ASCII)
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or found is None:
        return None
    start, last, total = map(int, found.groups())
    return total if start == first and last + 1 == total else None


def _refuse_full_disk(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < needed:
        raise ArtifactError(
            f"{needed:,} bytes are needed, and {free:,} are free",
            where=partial.parent,
            remedy="free some space, or name a folder on another disk with --cache-dir",
        )


def _write_state(response: httpx2.Response, shown: str, partial: Path) -> None:
    """Write down which version this is; where the server does not say, the download cannot be continued."""
    for header in ("ETag", "Last-Modified"):
        validator = response.headers.get(header)
        if validator and not validator.startswith("W/"):  # weak: equal for versions that differ in bytes
            state = PartialState(url=shown, validator_header=header, validator=validator)
            state_path_of(partial).write_bytes(manifest_bytes(state))
            return


def _read_state(partial: Path, shown: str) -> PartialState | None:
    """Return the state of a partial file that can be continued from `shown`."""
    try:
        state = PartialState.model_validate_json(state_path_of(partial).read_bytes())
        has_bytes = partial.stat().st_size > 0
    except (OSError, ValidationError):
        return None
    return state if has_bytes and state.url == shown else None
