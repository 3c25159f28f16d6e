"""Pull released weights into the cache, and hold them to what was seen first."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from parnet_deploy.artifacts.schemas import FileRecord
from parnet_deploy.errors import ArtifactError, DownloadError
from parnet_deploy.weights.cache import Download, WeightsCache, read_record
from parnet_deploy.weights.content import refuse_cut_short
from parnet_deploy.weights.download import Progress, discard_partial, download
from parnet_deploy.weights.http import Timeouts
from parnet_deploy.weights.releases import RELEASE_PAGE, TAG, ReleasedWeights
from parnet_deploy.weights.sources import locate, without_secrets


@dataclass(frozen=True)
class PullOptions:
    """How weights are pulled.

    `source` is a mirror (see `locate`). `sha256` is what the file must have, in hex. `accept_changed` fetches again and
    records what comes in the place of what was recorded.
    """

    source: str | None = None
    offline: bool = False
    sha256: str | None = None
    accept_changed: bool = False
    timeouts: Timeouts = field(default_factory=Timeouts)

    def __post_init__(self) -> None:
        if self.offline and (self.source is not None or self.accept_changed):
            raise DownloadError(
                "--offline reads the cache only: it excludes --from and --accept-changed", remedy="leave --offline out"
            )
        if self.sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", self.sha256):
            raise DownloadError(f"{self.sha256!r} is no sha256", remedy="64 hexadecimal digits")


@dataclass(frozen=True)
class PulledWeights:
    """Released weights in the cache; `is_new` if they were first seen now."""

    weights: ReleasedWeights
    path: Path
    record: Download
    is_new: bool


def _no_progress(_what: str, _done: int, _total: int | None) -> None:
    pass


def pull(
    weights: ReleasedWeights,
    cache: WeightsCache,
    options: PullOptions = PullOptions(),
    *,
    progress: Progress = _no_progress,
) -> PulledWeights:
    """Return released weights from the cache, after fetching them if they are not there.

    Raises:
        DownloadError: they cannot be fetched, or are not what was recorded or asked for.
        ArtifactError: the cache is damaged or cannot be written.
    """
    if options.accept_changed or (found := _find(weights, cache, options, progress)) is None:
        if options.offline:
            raise DownloadError(
                f"{weights.asset} is not there, and --offline fetches nothing",
                where=cache.folder,
                remedy="pull it without --offline once, or name the folder that has it with --cache-dir",
            )
        with cache.locked(weights.asset, on_wait=lambda: progress("waiting for another process", 0, None)):
            # Another process may have fetched it meanwhile.
            found = None if options.accept_changed else _find(weights, cache, options, progress)
            return found or _fetch(weights, cache, options, progress)
    return found


def _find(
    weights: ReleasedWeights, cache: WeightsCache, options: PullOptions, progress: Progress
) -> PulledWeights | None:
    progress("checking", 0, None)
    record = cache.find(weights.asset)
    if record is None:
        return None
    path = cache.path_of(weights.asset)
    _refuse_other(record.file, options.sha256, where=path, remedy="check --sha256, or fetch again: --accept-changed")
    return PulledWeights(weights, path, record, is_new=False)


def _fetch(weights: ReleasedWeights, cache: WeightsCache, options: PullOptions, progress: Progress) -> PulledWeights:
    partial, path = cache.partial_of(weights.asset), cache.path_of(weights.asset)
    location = locate(weights, options.source)
    if isinstance(location, Path):
        progress("copying", 0, None)
        _copy(location, partial)
    else:
        download(location, partial, timeouts=options.timeouts, progress=progress)
    progress("checking", 0, None)
    source = str(location.resolve()) if isinstance(location, Path) else without_secrets(location)
    now = _examine(partial, weights.asset, source)
    try:
        _refuse_other(now.file, options.sha256, where=source, remedy="check --sha256, or take another --from")
        before = None if options.accept_changed else read_record(path)
        if before is not None:
            remedy = f"find out why ({RELEASE_PAGE}); if the new file is right, pull with --accept-changed"
            before.refuse_change(now.file, where=source, remedy=remedy)
    except DownloadError:
        if isinstance(location, Path):  # copied again in no time; a download may be accepted without fetching it twice
            discard_partial(partial)
        raise
    cache.adopt(weights.asset, before or now)
    discard_partial(partial)
    return PulledWeights(weights, path, before or now, is_new=before is None)


def _examine(partial: Path, asset: str, source: str) -> Download:
    """Describe what was fetched; what is not whole is not kept."""
    try:
        refuse_cut_short(partial, where=source)
    except DownloadError:
        discard_partial(partial)
        raise
    return Download(
        file=FileRecord.of(partial, name=asset),
        source=source,
        release=TAG,
        first_seen=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _copy(file: Path, partial: Path) -> None:
    try:
        discard_partial(partial)
        shutil.copyfile(file, partial)
    except OSError as error:
        what = f"cannot be copied to {partial} ({error.strerror or error})"
        raise ArtifactError(what, where=file, remedy="check permissions and free space") from error


def _refuse_other(found: FileRecord, sha256: str | None, *, where: str | Path, remedy: str) -> None:
    if sha256 is not None and found.sha256 != sha256.lower():
        raise DownloadError(
            f"the sha256 is {found.sha256}, not {sha256.lower()} as asked for",
            where=where,
            remedy=remedy,
        )
