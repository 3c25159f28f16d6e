"""A page of results in every form of output, and its pictures, with hostile names."""

from __future__ import annotations

import base64
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from parnet_deploy.errors import MissingDependencyError
from parnet_deploy.reporting.document import Bullets, Document, Paragraph, Pictures, Preformatted, Section, Table
from parnet_deploy.reporting.html import html_of
from parnet_deploy.reporting.markdown import markdown_of
from parnet_deploy.reporting.pictures import DARK, LIGHT, WIDTH_INCHES, Theme, draw_picture
from parnet_deploy.reporting.publish import check_publishing, write_page
from parnet_deploy.reporting.terminal import rich_table

NAME = "<b>[red]|$x$_*"
TABLE = Table(
    "Sizes", ("name", "kind", "bytes"), (("a", "x", "12"), (NAME, "", "7")), names=(0, 1), marked=frozenset({1})
)


def paint(figure: Any, theme: Theme) -> None:
    axes = figure.subplots()
    axes.plot([1, 2], color=theme.foreground, label="$\\frac$")
    axes.legend()


NARROW = draw_picture("narrow", NAME, 2.0, paint)
WIDE = draw_picture("wide", "all of it", 2.0, paint, width_inches=2 * WIDTH_INCHES)
DOCUMENT = Document(
    title=NAME,
    answer="it is so",
    support=(NAME,),
    introduction="made today",
    sections=(
        Section("Figures", (TABLE, Paragraph("in bytes"), Bullets(("one", "two")))),
        Section("Pictures", (Pictures((NARROW, WIDE)), Preformatted("$ ls\n<none>"))),
    ),
)


class Tags(HTMLParser):
    """Collect tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(rich_table(TABLE))
    assert [line.rstrip() for line in console.export_text(clear=False).splitlines()] == [
        "Sizes",
        "name            kind  bytes",
        "a               x        12",
        f"{NAME}            7",
    ]
    styled = console.export_text(styles=True).splitlines()
    assert [NAME in line for line in styled if "\x1b[1;31m" in line] == [True]


def test_markdown() -> None:
    text = markdown_of(DOCUMENT)
    escaped = next(line for line in text.splitlines() if line.startswith("# "))[2:]
    assert re.sub(r"\\(.)", r"\1", escaped) == NAME != escaped
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows == [
        "| name | kind | bytes |",
        "| --- | --- | ---: |",
        "| a | x | 12 |",
        f"| **{escaped}** |  | **7** |",
    ]
    assert text.splitlines()[2:5] == ["**it is so**", "", f"- {escaped}"]
    assert f"![{escaped}](narrow.png)\n![all of it](wide.png)" in text
    assert "    $ ls\n    <none>" in text


def test_html() -> None:
    found = Tags()
    found.feed(html_of(DOCUMENT))
    found.close()
    assert found.text.count(NAME) == 4  # title, heading, sentence and cell
    assert "$ ls\n<none>" in found.text
    assert not {"b", "none", "script"} & set(found.tags)
    assert found.attributes.count(("class", "marked")) == 1
    assert found.attributes.count(("class", "name")) == 6
    assert found.attributes.count(("class", "wide-picture")) == 1
    links = [value for name, value in found.attributes if name in ("src", "srcset", "href")]
    pngs = [f"data:image/png;base64,{base64.b64encode(png).decode()}" for p in (NARROW, WIDE) for png in both(p)]
    assert links == ["data:,", *pngs]
    widths = [int(value or 0) for name, value in found.attributes if name == "width"]
    assert widths[1] == 2 * widths[0] > 1000


def both(picture: Any) -> tuple[bytes, bytes]:
    """The dark picture stands first: browsers take the first that fits."""
    return picture.dark_png, picture.light_png


@pytest.mark.parametrize(("picture", "is_wide"), [(NARROW, False), (WIDE, True)])
def test_pictures_are_drawn_for_light_and_dark_pages(picture: Any, is_wide: bool) -> None:
    assert picture.is_wide == is_wide
    for png, theme in zip(both(picture), (DARK, LIGHT), strict=True):
        with Image.open(io.BytesIO(png)) as image:
            assert image.format == "PNG"
            assert "Software" not in image.info
            corner = np.asarray(image.convert("RGB"))[0, 0]
        assert "#" + "".join(f"{value:02x}" for value in corner) == theme.background


def test_a_page_becomes_files(tmp_path: Path) -> None:
    write_page(tmp_path, DOCUMENT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["narrow.png", "report.html", "report.md", "wide.png"]
    assert (tmp_path / "wide.png").read_bytes() == WIDE.light_png


@pytest.mark.parametrize(
    ("modules", "name"), [(("matplotlib", "matplotlib.figure"), "matplotlib"), (("jinja2",), "Jinja")]
)
def test_what_is_missing_is_named_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, modules: tuple[str, ...], name: str
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=name) as caught:
        check_publishing()
    assert "leave out -o" in str(caught.value)
