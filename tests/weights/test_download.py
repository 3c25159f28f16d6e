"""Downloads from servers that behave, stall, break off, lie, change their file or send something else."""

from __future__ import annotations

import resource
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parnet_deploy.errors import ArtifactError, DownloadError
from parnet_deploy.weights.download import download, state_path_of
from parnet_deploy.weights.http import Timeouts, refuse_redirect
from tests.weights.server import (
    Handler,
    Proxy,
    ReleaseServer,
    Reply,
    announcing,
    breaking_off,
    careless_ranges,
    chunked,
    page,
    redirecting,
    stalling,
    whole,
)

HALF = 100_000
Fetch = Callable[..., None]


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "asset.partial"


@pytest.fixture
def fetch(server: ReleaseServer, partial: Path) -> Fetch:
    """A function that downloads from the server, or from elsewhere."""

    def run(url: str | None = None, *, stall_s: float = 60, progress: Callable[..., None] | None = None) -> None:
        address = f"{server.url}/asset" if url is None else url
        download(address, partial, timeouts=Timeouts(60, stall_s), progress=progress or (lambda *_: None))

    return run


def test_a_file_is_fetched_whole_and_progress_told(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes
) -> None:
    told: list[tuple[str, int, int | None]] = []
    fetch(progress=lambda *now: told.append(now))
    assert partial.read_bytes() == data
    assert told[-1] == ("downloading", len(data), len(data))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    path, headers = server.requests[0]
    assert path == "/asset"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("parnet-deploy/")


@pytest.mark.parametrize("reply", [whole, announcing(None)], ids=["no ranges", "no length"])
def test_servers_that_know_less_do(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, reply: Reply
) -> None:
    server.replies.append(reply)
    fetch()
    assert partial.read_bytes() == data


def test_bytes_are_written_as_they_trickle_in(server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes) -> None:
    """Each piece is sent only after the one before it was told as done, so many small reads are sure."""
    pieces = [data[i : i + 700] for i in range(0, len(data), 700)]
    arrived = threading.Semaphore(1)
    told: list[int] = []

    def trickle() -> Iterator[bytes]:
        for piece in pieces:
            arrived.acquire()
            yield piece

    def progress(_what: str, done: int, total: int | None) -> None:
        assert total is None
        told.append(done)
        arrived.release()

    server.replies.append(chunked(trickle()))
    fetch(progress=progress)
    assert partial.read_bytes() == data
    assert sorted(set(told)) == [min(700 * (i + 1), len(data)) for i in range(len(pieces))]


def test_a_server_that_stalls_is_left_and_the_rest_fetched_later(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes
) -> None:
    server.replies.append(stalling(HALF))
    with pytest.raises(DownloadError, match=r"the server sent nothing for 0\.2 s") as caught:
        fetch(stall_s=0.2)
    assert caught.value.remedy == f"run the command again, which goes on from {HALF:,} bytes"
    assert partial.read_bytes() == data[:HALF]
    fetch()
    assert partial.read_bytes() == data
    assert server.ranges_asked() == [None, f"bytes={HALF - 1}-"]


def test_a_server_that_never_answers_is_left(server: ReleaseServer, fetch: Fetch, partial: Path) -> None:
    server.replies.append(lambda handler: handler.server.ended.wait() and None)
    with pytest.raises(DownloadError, match="the server sent nothing"):
        fetch(stall_s=0.2)
    assert not partial.exists()


def up_to(cut: int) -> Reply:
    """Send the range that is asked for, but only up to the byte `cut` of the file, then close the connection."""

    def reply(handler: Handler) -> None:
        total = len(handler.server.data)
        first = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        told = {"Content_Range": f"bytes {first}-{total - 1}/{total}"} if first else {}
        handler.start(206 if first else 200, total - first, **told)
        handler.wfile.write(handler.server.data[first:cut])
        handler.close_connection = True

    return reply


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 200_000), min_size=1, max_size=4, unique=True).map(sorted))
def test_a_connection_that_breaks_off_anywhere_is_continued(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, cuts: list[int]
) -> None:
    partial.unlink(missing_ok=True)
    for cut in cuts:
        server.replies.append(up_to(cut))
        with pytest.raises(DownloadError, match="broke off"):
            fetch()
        # Fewer bytes than tell weights from a page are not kept.
        assert (partial.read_bytes() if partial.exists() else b"") == data[: cut if cut >= 512 else 0]
    fetch()
    assert partial.read_bytes() == data
    assert server.ranges_asked()[-1] == (f"bytes={cuts[-1] - 1}-" if cuts[-1] >= 512 else None)


def test_a_partial_file_that_is_whole_costs_one_byte(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes
) -> None:
    fetch()
    told: list[int] = []
    fetch(progress=lambda _what, done, _total: told.append(done))
    assert server.ranges_asked() == [None, f"bytes={len(data) - 1}-"]
    assert set(told) == {len(data)}
    assert partial.read_bytes() == data


@pytest.mark.parametrize(
    "answer", [None, whole, careless_ranges], ids=["heeds If-Range", "no ranges", "ignores If-Range"]
)
@pytest.mark.parametrize("longer", [-50_000, 0, 50_000])
def test_a_file_that_changed_is_never_glued_to_the_old_one(
    server: ReleaseServer,
    fetch: Fetch,
    partial: Path,
    data: bytes,
    other_data: bytes,
    answer: Reply | None,
    longer: int,
) -> None:
    server.replies.append(breaking_off(HALF))
    with pytest.raises(DownloadError, match="broke off"):
        fetch()
    changed = bytearray(other_data[:longer] if longer < 0 else other_data + bytes(longer))
    changed[HALF - 1] = data[HALF - 1]  # the byte that overlaps tells nothing
    server.data = bytes(changed)
    server.etag = '"two"'
    if answer is not None:
        server.replies.append(answer)
    fetch()
    assert partial.read_bytes() == server.data
    assert '"two"' in state_path_of(partial).read_text().replace('\\"', '"')


def test_a_file_that_became_shorter_than_what_is_there_is_fetched_anew(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes
) -> None:
    server.replies.append(breaking_off(HALF))
    with pytest.raises(DownloadError):
        fetch()
    server.data = data[: HALF // 2]
    server.replies.append(careless_ranges)  # 416: no such range
    fetch()
    assert partial.read_bytes() == data[: HALF // 2]
    assert server.ranges_asked() == [None, f"bytes={HALF - 1}-", None]


def test_a_version_that_lies_is_noticed_by_the_byte_that_overlaps(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes
) -> None:
    server.replies.append(breaking_off(HALF))
    with pytest.raises(DownloadError):
        fetch()
    changed = bytearray(data)
    changed[HALF - 1] ^= 1
    server.data = bytes(changed)  # the ETag stays
    fetch()
    assert partial.read_bytes() == server.data


@pytest.mark.parametrize(
    "versions",
    [{"ETag": ""}, {"ETag": 'W/"one"'}],
    ids=["no version", "weak version"],
)
def test_without_a_strong_version_nothing_is_continued(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, versions: dict[str, str]
) -> None:
    server.replies.append(breaking_off(HALF, **versions))
    with pytest.raises(DownloadError, match="broke off") as caught:
        fetch()
    assert caught.value.remedy == "run the command again"
    assert not partial.exists()
    fetch()
    assert server.ranges_asked() == [None, None]
    assert partial.read_bytes() == data


def test_the_time_of_the_last_change_will_do(server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes) -> None:
    changed = "Fri, 24 Dec 2021 18:21:34 GMT"
    server.replies.append(breaking_off(HALF, ETag="", Last_Modified=changed))
    with pytest.raises(DownloadError):
        fetch()

    def rest(handler: Handler) -> None:
        assert handler.headers["If-Range"] == changed
        first = HALF - 1
        fields = {"Content_Range": f"bytes {first}-{len(data) - 1}/{len(data)}", "Last_Modified": changed}
        handler.start(206, len(data) - first, **fields)
        handler.wfile.write(data[first:])

    server.replies.append(rest)
    fetch()
    assert partial.read_bytes() == data
    assert len(server.requests) == 2


def test_another_address_is_not_continued(server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes) -> None:
    server.replies.append(breaking_off(HALF))
    with pytest.raises(DownloadError):
        fetch()
    fetch(f"{server.url}/elsewhere/asset")
    assert server.ranges_asked() == [None, None]
    assert partial.read_bytes() == data


@pytest.mark.parametrize("state", [b"", b"{", b'{"url": 1}', b"\xff"])
def test_a_damaged_state_is_not_continued(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, state: bytes
) -> None:
    server.replies.append(breaking_off(HALF))
    with pytest.raises(DownloadError):
        fetch()
    state_path_of(partial).write_bytes(state)
    fetch()
    assert server.ranges_asked() == [None, None]
    assert partial.read_bytes() == data


class TestLies:
    """Lengths that are not those of what is sent; a file cut short in good order is seen in `test_pull`."""

    def test_too_long_a_length(self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes) -> None:
        server.replies.append(announcing(len(data) + 10))
        with pytest.raises(DownloadError, match="broke off"):
            fetch()
        assert partial.read_bytes() == data

    def test_too_short_a_length(self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes) -> None:
        server.replies.append(announcing(len(data) - 10))
        fetch()
        assert partial.read_bytes() == data[:-10]

    def test_chunks_without_an_end(self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes) -> None:
        server.replies.append(chunked([data[:HALF]], ended=False))
        with pytest.raises(DownloadError, match="broke off"):
            fetch()
        assert partial.read_bytes() == data[:HALF]

    @pytest.mark.parametrize(
        "told",
        ["bytes 5-9/10", "bytes {first}-{last}/*", "bytes {first}-{early}/{total}", "pages 1-2/3", "", "bytes x-y/z"],
    )
    def test_another_range_than_asked_for(
        self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, told: str
    ) -> None:
        server.replies.append(breaking_off(HALF))
        with pytest.raises(DownloadError):
            fetch()
        numbers = {"first": HALF - 1, "last": len(data) - 1, "early": len(data) - 2, "total": len(data)}

        def reply(handler: Handler) -> None:
            handler.start(206, len(data) - HALF + 1, Content_Range=told.format(**numbers))
            handler.wfile.write(data[HALF - 1 :])

        server.replies.append(reply)
        fetch()
        assert partial.read_bytes() == data
        assert server.ranges_asked() == [None, f"bytes={HALF - 1}-", None]

    def test_a_range_shorter_than_told(self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes) -> None:
        server.replies.append(breaking_off(HALF))
        with pytest.raises(DownloadError):
            fetch()

        def reply(handler: Handler) -> None:
            first = HALF - 1
            handler.start(206, 501, Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}")
            handler.wfile.write(data[first : first + 501])

        server.replies.append(reply)
        with pytest.raises(DownloadError, match=f"sent {HALF + 500:,} bytes and had announced {len(data):,}"):
            fetch()
        assert partial.read_bytes() == data[: HALF + 500]
        fetch()
        assert partial.read_bytes() == data

    def test_a_coding_that_was_not_asked_for(self, server: ReleaseServer, fetch: Fetch, partial: Path) -> None:
        server.replies.append(page(b"\x1f\x8b", content_type="application/octet-stream", Content_Encoding="gzip"))
        with pytest.raises(DownloadError, match=r"coded \(gzip\)"):
            fetch()
        assert not partial.exists()


@pytest.mark.parametrize(
    ("body", "content_type", "what"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "text/html", r"a web page \(text/html\)"),
        (b"\xef\xbb\xbf\n  <HTML>" + b"x" * 5000, "application/octet-stream", "a web page"),
        (b"<?xml version='1.0'?><Error/>", "application/xml", "an XML document"),
        (b'{"message": "rate limited"}', "application/json", "a JSON document"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text/plain", "a Git LFS pointer"),
        (b"\x1f\x8b\x08" + b"x" * 600, "application/gzip", "a gzip archive"),
        (b"", "text/plain", "an empty file"),
        (b"Not found.", "", r"a file that starts with b'Not foun'"),
    ],
)
def test_what_is_no_file_of_torch_is_called_what_it_is(
    server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, body: bytes, content_type: str, what: str
) -> None:
    server.replies.append(page(body, content_type=content_type))
    with pytest.raises(DownloadError, match=f"{what}.*, not weights that torch saved"):
        fetch()
    assert not partial.exists()
    # Nor is what was there before lost to it.
    server.replies += [breaking_off(HALF), page(body, content_type=content_type)]
    for message in ("broke off", "not weights"):
        with pytest.raises(DownloadError, match=message):
            fetch()
    assert partial.read_bytes() == data[:HALF]
    fetch()
    assert server.ranges_asked()[-1] == f"bytes={HALF - 1}-"
    assert partial.read_bytes() == data


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (404, "releases/tag/v.0.1.0"),
        (410, "pass the right one's URL to --from"),
        (401, "wants credentials"),
        (403, "wants credentials"),
        (407, "the proxy's user and password"),
        (429, "try again later"),
        (503, "try again later"),
        (204, "another source"),
        (400, "another source"),
    ],
)
def test_statuses_that_are_no_file(
    server: ReleaseServer, fetch: Fetch, partial: Path, status: int, remedy: str
) -> None:
    server.replies.append(page(b"" if status == 204 else b"<html>no</html>", status=status))
    with pytest.raises(DownloadError, match=f"the server answers {status} [A-Z]") as caught:
        fetch()
    assert remedy in str(caught.value.remedy)
    assert caught.value.where == f"{server.url}/asset"
    assert not partial.exists()


class TestRedirects:
    """Followed from http to http, and nowhere that is not the web."""

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_followed_with_the_range(
        self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, status: int
    ) -> None:
        server.replies += [redirecting("/real", status), breaking_off(HALF), redirecting("/real", status)]
        with pytest.raises(DownloadError, match="broke off"):
            fetch()
        fetch()
        assert partial.read_bytes() == data
        assert [path for path, _ in server.requests] == ["/asset", "/real", "/asset", "/real"]
        assert server.ranges_asked()[-1] == f"bytes={HALF - 1}-"

    @pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://x/"])
    def test_not_followed_out_of_the_web(self, server: ReleaseServer, fetch: Fetch, partial: Path, target: str) -> None:
        server.replies.append(redirecting(target))
        with pytest.raises(DownloadError, match=f"redirects to {target.partition('/')[0]}//.*; only http and https"):
            fetch()
        assert len(server.requests) == 1
        assert not partial.exists()

    def test_not_without_an_end(self, server: ReleaseServer, fetch: Fetch) -> None:
        server.replies += [redirecting(f"/{i}") for i in range(20)]
        with pytest.raises(DownloadError, match="more than 10 redirects"):
            fetch()
        assert len(server.requests) == 11

    def test_without_a_target(self, server: ReleaseServer, fetch: Fetch) -> None:
        server.replies.append(page(b"", status=302))
        with pytest.raises(DownloadError, match="the server answers 302 Found"):
            fetch()

    @pytest.mark.parametrize("target", ["data:text/plain,x", "mailto:me", "http://[::1", "http://\x7f/", "x" * 65_537])
    def test_to_what_is_no_address(self, server: ReleaseServer, fetch: Fetch, partial: Path, target: str) -> None:
        server.replies.append(redirecting(target))
        with pytest.raises(DownloadError, match="redirects to what is no address on the web") as caught:
            fetch()
        assert caught.value.where == f"{server.url}/asset"
        assert caught.value.remedy == "take another source with --from"
        assert len(server.requests) == 1
        assert not partial.exists()

    def test_not_from_https_to_http(self) -> None:
        with pytest.raises(DownloadError, match="https not to http") as caught:
            refuse_redirect("https://me:secret@a/x?key=1", "http://b/x?signature=2")
        assert "secret" not in str(caught.value)
        assert "signature" not in str(caught.value)
        refuse_redirect("http://a/x", "https://b/x")
        refuse_redirect("https://a/x", "https://b/x")
        refuse_redirect("http://a/x", "http://b/x")


class TestProxies:
    """From the environment, as everywhere."""

    def test_the_proxy_is_asked(
        self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Proxy(server.url) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            fetch("http://release.invalid/folder/asset")
        assert proxy.asked == ["GET http://release.invalid/folder/asset"]
        assert server.requests[0][0] == "/folder/asset"
        assert partial.read_bytes() == data

    def test_the_proxy_is_left_out_where_no_proxy_says_so(
        self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Proxy(server.url) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            monkeypatch.setenv("NO_PROXY", "other.invalid, 127.0.0.1")
            fetch()
        assert proxy.asked == []
        assert partial.read_bytes() == data

    def test_https_goes_through_a_tunnel(
        self, server: ReleaseServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Proxy(server.url) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with pytest.raises(DownloadError, match=r"the proxy refuses .*407"):
                fetch("https://release.invalid/asset")
        assert proxy.asked == ["CONNECT release.invalid:443"]

    def test_a_proxy_that_wants_a_password(
        self, server: ReleaseServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Proxy(server.url, refuses=True) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            with pytest.raises(DownloadError, match="407 Proxy Authentication Required") as caught:
                fetch()
        assert "HTTP_PROXY" in str(caught.value.remedy)

    def test_a_host_that_has_no_name(
        self, server: ReleaseServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Early releases of httpx2 refuse such an address with an error of idna's, later ones ask the proxy."""
        with Proxy(server.url, refuses=True) as proxy:
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            with pytest.raises(DownloadError, match=r"cannot be fetched \(Malformed A-label|the server answers 407"):
                fetch("http://xn--/asset")

    @pytest.mark.parametrize(
        ("name", "value"), [("ALL_PROXY", "carrier-pigeon://127.0.0.1:1"), ("SSL_CERT_FILE", "/nowhere/ca.pem")]
    )
    def test_settings_that_cannot_be_used(
        self, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(DownloadError, match="settings of proxies or certificates cannot be used") as caught:
            fetch()
        assert name in str(caught.value.remedy)


def test_a_server_that_is_not_there(fetch: Fetch, partial: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(DownloadError, match="no connection") as caught:
        fetch(f"http://127.0.0.1:{port}/asset")
    assert "--from" in str(caught.value.remedy)
    assert not partial.exists()


def test_a_server_that_takes_no_connection_in_time(partial: Path) -> None:
    """A full backlog drops what comes, as an unreachable host does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/asset"
        with pytest.raises(DownloadError, match=r"no connection within 0\.2 s"):
            download(url, partial, timeouts=Timeouts(0.2, 60), progress=lambda *_: None)
        for each in waiting:
            each.close()


def test_no_password_is_told(fetch: Fetch, server: ReleaseServer, partial: Path) -> None:
    server.replies += [breaking_off(HALF)]
    with pytest.raises(DownloadError) as caught:
        fetch(server.url.replace("://", "://me:secret@") + "/asset?token=hidden")
    assert server.requests[0][0] == "/asset?token=hidden"
    assert server.requests[0][1]["Authorization"].startswith("Basic ")
    for text in (str(caught.value), state_path_of(partial).read_text()):
        assert "secret" not in text
        assert "hidden" not in text


class TestFullDisks:
    """No room: said before if the server tells the length, else when it comes to it; what is there is kept."""

    def test_said_before(self, fetch: Fetch, partial: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
        with pytest.raises(ArtifactError, match=f"{len(data):,} bytes are needed, and 1,000 are free") as caught:
            fetch()
        assert "--cache-dir" in str(caught.value.remedy)
        assert not partial.exists()

    @pytest.fixture
    def small_files(self) -> Iterator[int]:
        """Let the kernel refuse files of more than 60,000 bytes."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
        yield 60_000
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    def test_refused_by_the_kernel(
        self, server: ReleaseServer, fetch: Fetch, partial: Path, data: bytes, request: pytest.FixtureRequest
    ) -> None:
        limit = request.getfixturevalue("small_files")
        with pytest.raises(ArtifactError, match=r"cannot be written .*too large"):
            fetch()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        size = partial.stat().st_size
        assert 0 < size <= limit
        fetch()
        assert partial.read_bytes() == data
        assert server.ranges_asked()[-1] == f"bytes={size - 1}-"


def test_a_folder_that_is_not_there(fetch: Fetch, partial: Path) -> None:
    partial.parent.rmdir()
    with pytest.raises(ArtifactError, match=r"cannot be written \(No such file or directory\)"):
        fetch()
