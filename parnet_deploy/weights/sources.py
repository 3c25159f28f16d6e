"""Where a released file is taken from: the release, a mirror's URL or folder, or one named file."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, urlsplit, urlunsplit

from parnet_deploy.errors import DownloadError
from parnet_deploy.weights.releases import DOWNLOAD_URL, ReleasedWeights

_SUFFIX = ".pth.tar"


def locate(wanted: ReleasedWeights, source: str | None = None) -> str | Path:
    """Return the URL or the path of released weights.

    `source` is a mirror of the release (a base URL, or a folder that holds the assets), or a `.pth.tar` itself; without
    one it is the release.

    Raises:
        DownloadError: a scheme other than http and https, or no such file.
    """
    if source is None:
        return f"{DOWNLOAD_URL}/{wanted.asset}"
    if "://" in source:
        return _url_of(wanted, source)
    path = Path(source)
    if path.is_dir():
        path = path / wanted.asset
        if not path.is_file():
            there = ", ".join(sorted(entry.name for entry in path.parent.glob(f"*{_SUFFIX}"))) or f"no {_SUFFIX} at all"
            raise DownloadError(
                f"the folder holds no {wanted.asset}",
                where=source,
                remedy=f"pass the file itself to --from if it has another name; there is: {there}",
            )
    if not path.is_file():
        raise DownloadError("no such file or folder", where=source, remedy="pass a URL, a folder or a file to --from")
    return path


def _url_of(wanted: ReleasedWeights, source: str) -> str:
    try:
        parts = urlsplit(source)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise DownloadError(
            "not an http or https URL", where=source, remedy="pass an http(s) URL, or the plain path of a folder"
        )
    path = parts.path if parts.path.endswith(_SUFFIX) else f"{parts.path.rstrip('/')}/{wanted.asset}"
    return urlunsplit(parts._replace(path=path))


def without_secrets(url: str) -> str:
    """Return a URL without what may be secret: user, password, query and fragment."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(SplitResult(parts.scheme, host, parts.path, "", ""))
