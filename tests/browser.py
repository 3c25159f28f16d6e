"""Look at a page in a real browser: headless Chromium, spoken to by the DevTools protocol over two pipes.

The protocol needs no package: messages are JSON, each ended by a zero byte, read by the browser from file descriptor 3
and written to 4 (chromedevtools.github.io/devtools-protocol, `--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "no chromium to look at the page with (Debian: apt-get install chromium)"

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
_TIMEOUT_S = 60.0

# Puts the pipes where the browser looks for them, and becomes the browser.
_LAUNCHER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""

_SETTLED = "Promise.all([document.fonts.ready, ...[...document.images].map(image => image.decode().catch(() => 0))])"

# What is wrong with a page's layout, as sentences. Text is compared line by line, as it is painted; what an element
# that scrolls hides does not count.
_FAULTS = """
(() => {
  const faults = [];
  const width = document.documentElement.clientWidth;
  const about = (node) => JSON.stringify((node.textContent || node.alt || node.nodeName).trim().slice(0, 40));
  if (document.documentElement.scrollWidth > width + 1) {
    faults.push(`the page is ${document.documentElement.scrollWidth} wide, the window ${width}`);
  }
  const clip = (rect, element) => {
    let {left, right, top, bottom} = rect;
    for (let parent = element; parent && parent !== document.body; parent = parent.parentElement) {
      if (getComputedStyle(parent).overflowX === 'visible') continue;
      const edge = parent.getBoundingClientRect();
      left = Math.max(left, edge.left); right = Math.min(right, edge.right);
      top = Math.max(top, edge.top); bottom = Math.min(bottom, edge.bottom);
    }
    return {left, right, top, bottom};
  };
  const boxes = [];
  const add = (node, element, rects) => {
    for (const rect of rects) {
      const box = {...clip(rect, element), node, element};
      if (box.right - box.left > 0.5 && box.bottom - box.top > 0.5) boxes.push(box);
    }
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (!node.textContent.trim()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    add(node, node.parentElement, range.getClientRects());
  }
  for (const image of document.images) {
    if (!image.complete || image.naturalWidth === 0) faults.push(`the image ${about(image)} is broken`);
    add(image, image.parentElement, [image.getBoundingClientRect()]);
  }
  for (const box of boxes) {
    if (box.left < -1 || box.right > width + 1) faults.push(`${about(box.node)} reaches beyond the window`);
  }
  boxes.forEach((one, index) => {
    for (const other of boxes.slice(index + 1)) {
      if (one.node === other.node) continue;
      const across = Math.min(one.right, other.right) - Math.max(one.left, other.left);
      const down = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
      if (across > 1 && down > 2) faults.push(`${about(one.node)} overlaps ${about(other.node)}`);
    }
  });
  return faults;
})()
"""


@dataclass(frozen=True)
class Look:
    """What was seen of a page: what is wrong with it, and every address that it asked for beyond its own file."""

    faults: tuple[str, ...]
    requests: tuple[str, ...]
    background: str


class Browser:
    """A running Chromium with one page."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None, MISSING
        from_us, self._write = os.pipe()
        self._read, to_us = os.pipe()
        theirs = [_moved_up(from_us), _moved_up(to_us)]
        arguments = [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *map(str, theirs), *arguments],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in theirs:
            os.close(descriptor)
        self._buffer = b""
        self._count = 0
        self._events: list[dict[str, Any]] = []
        self._session: str | None = None
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self._send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        try:
            self._send("Browser.close")
            self._process.wait(_TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._write)
            os.close(self._read)

    def look(self, page: Path, width: int, *, is_dark: bool = False) -> Look:
        """Open a file at a width in CSS pixels and examine it."""
        self._events.clear()
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[scheme])
        self._send("Page.navigate", url=page.absolute().as_uri())
        self._wait_for("Page.loadEventFired")
        # Text keeps moving until its font is there and images have been decoded.
        self._evaluate(
            "Promise.all([document.fonts.ready, ...[...document.images].map(i => i.decode().catch(() => 0))])"
        )
        sent = [event["params"] for event in self._events if event["method"] == "Network.requestWillBeSent"]
        own = page.absolute().as_uri()
        urls = [params["request"]["url"] for params in sent]
        return Look(
            faults=tuple(self._evaluate(_FAULTS)),
            requests=tuple(url for url in urls if not url.startswith("data:") and url != own),
            background=self._evaluate("getComputedStyle(document.body).backgroundColor"),
        )

    def screenshot(self, *, height: int | None = None) -> bytes:
        """Return the page that was looked at last as a PNG, from its top, whole or cut at `height`."""
        size = self._send("Page.getLayoutMetrics")["cssContentSize"]
        shown = size["height"] if height is None else min(height, size["height"])
        clip = {"x": 0, "y": 0, "width": size["width"], "height": shown, "scale": 1}
        taken = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(taken["data"])

    def _evaluate(self, expression: str) -> Any:
        found = self._send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def _send(self, method: str, **params: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _wait_for(self, method: str) -> None:
        while not any(event["method"] == method for event in self._events):
            self._receive()

    def _receive(self) -> dict[str, Any]:
        """Return the next message; an event is also kept."""
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self._read, 1 << 16) if ready else b""
            assert data, "chromium does not answer"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._events.append(message)
        return message


def _moved_up(descriptor: int) -> int:
    """Give a descriptor a number that is neither 3 nor 4."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return moved


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a profile of its own and stop it in the end."""
    with Browser(profile) as browser:
        yield browser
