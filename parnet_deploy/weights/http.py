"""Ask a server for a file, and say what went wrong between here and there, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import httpx2

from parnet_deploy import __version__
from parnet_deploy.errors import DownloadError
from parnet_deploy.weights.releases import RELEASE_PAGE
from parnet_deploy.weights.sources import without_secrets

OTHER_SOURCE = "take another source with --from"
_ELSEWHERE = "check the network and HTTP_PROXY, HTTPS_PROXY and NO_PROXY, or take a mirror with --from URL or FOLDER"
_MAX_REDIRECTS = 10


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait for a connection, and for a server that sends nothing."""

    connect_s: float = 10.0
    stall_s: float = 30.0


@contextmanager
def open_client(timeouts: Timeouts) -> Iterator[httpx2.Client]:
    """Open a client.

    Its proxies are those of `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`. It trusts the certificates that
    the operating system trusts, or those of `SSL_CERT_FILE` or `SSL_CERT_DIR`.

    Raises:
        DownloadError: these settings cannot be used.
    """
    limits = httpx2.Timeout(timeouts.stall_s, connect=timeouts.connect_s)
    # The file's own bytes, whose number and range are known; a coding would hide both.
    headers = {"User-Agent": f"parnet-deploy/{__version__}", "Accept-Encoding": "identity"}
    try:
        client = httpx2.Client(timeout=limits, headers=headers)
    except (ImportError, ValueError, OSError) as error:
        raise DownloadError(
            f"the settings of proxies or certificates cannot be used ({error})",
            remedy="check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE and SSL_CERT_DIR",
        ) from error
    with client:
        yield client


@contextmanager
def get(client: httpx2.Client, url: str, headers: dict[str, str]) -> Iterator[httpx2.Response]:
    """Open the answer to a request; a redirect is followed after a look at where it leads.

    Raises:
        DownloadError: a redirect that is not followed, or too many.
    """
    request = client.build_request("GET", url, headers=headers)
    for _ in range(_MAX_REDIRECTS + 1):
        response = _send(client, request)
        try:
            if not response.has_redirect_location:
                yield response
                return
            if response.next_request is None:
                raise _no_address(request)
            refuse_redirect(str(request.url), str(response.next_request.url))
            request = response.next_request
        finally:
            response.close()
    raise DownloadError(f"more than {_MAX_REDIRECTS} redirects", where=without_secrets(url), remedy=OTHER_SOURCE)


def _send(client: httpx2.Client, request: httpx2.Request) -> httpx2.Response:
    """Send a request without following a redirect; raise `DownloadError` for one to what is no address.

    Since 2.16 httpx2 answers such a redirect without a next request; releases before it raise one of two errors. The
    address of the request itself has been read, so neither is about that.
    """
    try:
        return client.send(request, stream=True)
    except httpx2.InvalidURL as error:
        raise _no_address(request) from error
    except httpx2.RemoteProtocolError as error:
        if isinstance(error.__context__, httpx2.InvalidURL):
            raise _no_address(request) from error
        raise


def _no_address(request: httpx2.Request) -> DownloadError:
    where = without_secrets(str(request.url))
    return DownloadError("the server redirects to what is no address on the web", where=where, remedy=OTHER_SOURCE)


def refuse_redirect(before: str, after: str) -> None:
    """Raise `DownloadError` for a redirect out of http and https, or from https to http, which anyone could change."""
    scheme = after.partition(":")[0]
    if scheme not in ("http", "https") or (scheme == "http" and before.startswith("https:")):
        raise DownloadError(
            f"redirects to {without_secrets(after)}; only http and https are followed, and https not to http",
            where=without_secrets(before),
            remedy=OTHER_SOURCE,
        )


def http_error(
    error: httpx2.HTTPError | httpx2.InvalidURL | UnicodeError, *, where: str, kept: int, timeouts: Timeouts
) -> DownloadError:
    """Describe a failed exchange of which `kept` bytes remain."""
    again = f"run the command again, which goes on from {kept:,} bytes" if kept else "run the command again"
    match error:
        case httpx2.ConnectTimeout():
            what, remedy = f"no connection within {timeouts.connect_s:g} s", _ELSEWHERE
        case httpx2.ProxyError():
            what, remedy = f"the proxy refuses ({error})", "check HTTP_PROXY, HTTPS_PROXY and NO_PROXY"
        case httpx2.ConnectError():
            what, remedy = f"no connection ({error})", _ELSEWHERE
        case httpx2.TimeoutException():
            what, remedy = f"the server sent nothing for {timeouts.stall_s:g} s", again
        case httpx2.ReadError() | httpx2.RemoteProtocolError():
            what, remedy = f"the connection broke off ({error})", again
        case _:
            what, remedy = f"cannot be fetched ({error})", _ELSEWHERE
    return DownloadError(what, where=where, remedy=remedy)


def refused_status(status: int, *, where: str) -> DownloadError:
    """Describe an answer whose status is not that of a file."""
    phrase = next((known.phrase for known in HTTPStatus if known == status), "")
    told = f"{status} {phrase}".strip()
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        remedy = "give the proxy's user and password in HTTP_PROXY or HTTPS_PROXY"
    elif status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        remedy = "the source wants credentials: --from https://USER:PASSWORD@HOST/..."
    elif status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        remedy = f"look which files there are ({RELEASE_PAGE}), and pass the right one's URL to --from"
    elif status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        remedy = "try again later, or take a mirror with --from URL or FOLDER"
    else:
        remedy = OTHER_SOURCE
    return DownloadError(f"the server answers {told}", where=where, remedy=remedy)
