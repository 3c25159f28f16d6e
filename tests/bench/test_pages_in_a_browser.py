"""The pages in a real browser, on a phone and on a desk, light and dark: nothing overlaps, is broken, or is fetched."""

from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.document import Picture, Table
from parnet_deploy.bench.output.html import html_of
from parnet_deploy.bench.output.report_document import document_of
from tests.browser import CHROMIUM, MISSING, Browser, open_browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)

PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A running browser."""
    with open_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """The script of the demo."""
    path = Path(__file__).parents[2] / "examples" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory,
    report: Report,
    full_report: Report,
    full_pictures: dict[str, Picture],
    demo: ModuleType,
) -> dict[str, Path]:
    """A report that has everything, and the page of the demo."""
    folder = tmp_path_factory.mktemp("pages")
    transcript = demo.Transcript([("parnet-deploy fuse a.safetensors -o b.safetensors", "| " * 80 + "\nline", 1.5)])
    tables = [Table("Accuracy", ("artefact", "top-1", "top-5", "images"), (("a checkpoint", "98%", "100%", "360"),))]
    texts = {
        "report": html_of(document_of(full_report, full_pictures)),
        "demo": demo.demo_page("All artefacts give the same predictions", tables, report, transcript),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("page", ["report", "demo"])
def test_a_page_is_whole(browser: Browser, pages: dict[str, Path], page: str, width: int, *, is_dark: bool) -> None:
    look = browser.look(pages[page], width, is_dark=is_dark)
    assert look.faults == ()
    assert look.requests == ()
    assert look.background == ("rgb(19, 20, 23)" if is_dark else "rgb(255, 255, 255)")


def test_pictures_follow_the_page(browser: Browser, pages: dict[str, Path]) -> None:
    shown = []
    for is_dark in (False, True):
        browser.look(pages["report"], DESK, is_dark=is_dark)
        with Image.open(io.BytesIO(browser.screenshot())) as image:
            assert image.width == DESK
            grey = image.convert("L")
            shown.append(
                sum(level * count for level, count in enumerate(grey.histogram())) / (grey.width * grey.height)
            )
    # A dark page with light pictures would be far brighter.
    assert shown[0] > 230
    assert shown[1] < 60


def on_page(body: str) -> str:
    return f'<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">{body}'


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<p style="width:2000px">wide</p>', "the page is 20"),
        ('<p>one</p><p style="margin-top:-2em">two</p>', '"one" overlaps "two"'),
        ('<img src="data:image/png;base64,AAAA" alt="broken">', 'the image "broken" is broken'),
        ('<img src="missing.png" alt="gone">', 'the image "gone" is broken'),
        ('<p style="white-space:nowrap;margin-left:-40px">off the left edge</p>', "reaches beyond the window"),
        (
            '<div style="position:relative"><p>text</p><svg width="0"></svg>'
            '<img style="position:absolute;top:0;width:40px;height:40px" alt="cover" src="'
            'data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="></div>',
            '"text" overlaps "cover"',
        ),
    ],
)
def test_what_is_wrong_is_seen(browser: Browser, tmp_path: Path, body: str, fault: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(on_page(body), encoding="utf-8")
    faults = browser.look(path, DESK).faults
    assert any(fault in found for found in faults), faults


def test_what_scrolls_or_stands_apart_is_fine(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    scrolling = f'<pre style="overflow-x:auto">{"long " * 200}</pre>'
    path.write_text(on_page(f"<p>one</p>{scrolling}<p>two <b>three</b> four</p>"), encoding="utf-8")
    assert browser.look(path, PHONE).faults == ()


@pytest.mark.parametrize(
    "body",
    [
        '<img src="http://127.0.0.1:9/image.png" alt="x">',
        '<link rel="stylesheet" href="http://127.0.0.1:9/style.css">',
        '<script>fetch("http://127.0.0.1:9/data.json").catch(() => 0)</script>',
        "<style>body { background: url(http://127.0.0.1:9/back.png) }</style>",
    ],
)
def test_what_is_fetched_is_seen(browser: Browser, tmp_path: Path, body: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(on_page(body), encoding="utf-8")
    assert [url.startswith("http://127.0.0.1:9/") for url in browser.look(path, DESK).requests] == [True]
