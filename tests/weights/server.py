"""HTTP servers on this machine that do what servers do, the bad things included, and a forward proxy.

A server answers each request by the next of its `replies`, and once there are none by serving ranges as it should.
Nothing sleeps: a reply that stalls waits for the server's end.
"""

from __future__ import annotations

import http.client
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable

from tests.http_server import LocalHandler, LocalServer

Reply = Callable[["Handler"], None]


class Handler(LocalHandler):
    """One request to a `ReleaseServer`."""

    server: ReleaseServer

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        reply = self.server.replies.popleft() if self.server.replies else ranges
        try:
            reply(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def start(self, status: int, length: int | None, **headers: str) -> None:
        """Send a status and headers, those of the file unless told otherwise; without a length the end is the end."""
        self.send_response(status)
        fields = {"Content-Type": "application/octet-stream", "ETag": self.server.etag}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in fields.items():
            if value:
                self.send_header(name, value)
        if length is None:
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()


class ReleaseServer(LocalServer):
    """Serve `data` under every path."""

    def __init__(self, data: bytes, etag: str = '"one"') -> None:
        super().__init__(Handler)
        self.data = data
        self.etag = etag
        self.replies: deque[Reply] = deque()
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.ended = threading.Event()

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        super().__exit__(*error)

    def ranges_asked(self) -> list[str | None]:
        """Return the Range header of each request so far."""
        return [headers.get("Range") for _, headers in self.requests]


def ranges(handler: Handler) -> None:
    """Serve the file, or its end if the version that is asked for is this one: what a server should do."""
    data, etag = handler.server.data, handler.server.etag
    found = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if found is None or handler.headers.get("If-Range", etag) != etag:
        handler.start(200, len(data))
        handler.wfile.write(data)
        return
    first = int(found[1])
    if first >= len(data):
        handler.start(416, 0, Content_Range=f"bytes */{len(data)}")
        return
    handler.start(206, len(data) - first, Content_Range=f"bytes {first}-{len(data) - 1}/{len(data)}")
    handler.wfile.write(data[first:])


def whole(handler: Handler) -> None:
    """Serve the whole file, whatever was asked for: a server without ranges."""
    handler.start(200, len(handler.server.data))
    handler.wfile.write(handler.server.data)


def careless_ranges(handler: Handler) -> None:
    """Serve the range that was asked for without a look at If-Range."""
    del handler.headers["If-Range"]
    ranges(handler)


def announcing(length: int | None, *, sent: int | None = None, **headers: str) -> Reply:
    """Announce a length, send `sent` bytes and close the connection."""

    def reply(handler: Handler) -> None:
        handler.start(200, length, **headers)
        handler.wfile.write(handler.server.data[:sent])
        handler.close_connection = True

    return reply


def breaking_off(sent: int, **headers: str) -> Reply:
    """Close the connection after `sent` bytes of the file."""

    def reply(handler: Handler) -> None:
        announcing(len(handler.server.data), sent=sent, **headers)(handler)

    return reply


def stalling(sent: int, reached: threading.Event | None = None) -> Reply:
    """Send `sent` bytes, tell so, and then nothing until the server ends."""

    def reply(handler: Handler) -> None:
        handler.start(200, len(handler.server.data))
        handler.wfile.write(handler.server.data[:sent])
        handler.wfile.flush()
        if reached is not None:
            reached.set()
        handler.server.ended.wait()
        handler.close_connection = True

    return reply


def chunked(pieces: Iterable[bytes], *, ended: bool = True) -> Reply:
    """Send pieces in the chunked coding, whose end may be missing."""

    def reply(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("ETag", handler.server.etag)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        if ended:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    return reply


def page(body: bytes, *, status: int = 200, content_type: str = "text/html; charset=utf-8", **headers: str) -> Reply:
    """Send a small document in the place of the file."""

    def reply(handler: Handler) -> None:
        handler.start(status, len(body), Content_Type=content_type, ETag="", **headers)
        handler.wfile.write(body)

    return reply


def redirecting(target: str, status: int = 302) -> Reply:
    """Send the client elsewhere."""
    return page(b"elsewhere", status=status, Location=target)


class ProxyHandler(LocalHandler):
    """Forward a request for an absolute URL to `origin`, whatever its host, and write down which it was."""

    server: Proxy

    def do_GET(self) -> None:
        self.server.asked.append(f"GET {self.path}")
        if self.server.refuses:
            self.send_error(407)
            return
        path = "/" + self.path.split("/", 3)[3]
        connection = http.client.HTTPConnection(self.server.origin.removeprefix("http://"), timeout=60)
        connection.request("GET", path, headers={name: value for name, value in self.headers.items() if name != "Host"})
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        connection.close()

    def do_CONNECT(self) -> None:
        self.server.asked.append(f"CONNECT {self.path}")
        self.send_error(407)


class Proxy(LocalServer):
    """A forward proxy for http; of https it refuses every tunnel."""

    def __init__(self, origin: str, *, refuses: bool = False) -> None:
        super().__init__(ProxyHandler)
        self.origin = origin
        self.refuses = refuses
        self.asked: list[str] = []
