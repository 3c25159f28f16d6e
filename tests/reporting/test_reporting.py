"""Tables in every form of output, the page and the figure, with hostile names."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from parnet_deploy.errors import MissingDependencyError
from parnet_deploy.reporting.figures import import_matplotlib, line_style, plain_label, png_of
from parnet_deploy.reporting.pages import html_image, html_list, html_page
from parnet_deploy.reporting.tables import TextTable, html_table, markdown_table, markdown_text, rich_table

NAME = "<b>[red]|$x$_*"
TABLE = TextTable(
    "Sizes", ("name", "kind", "bytes"), (("a", "x", "12"), (NAME, "y", "7")), num_names=2, marked=frozenset({1})
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


def parse(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    found.close()
    return found


def test_terminal() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(rich_table(TABLE))
    shown = console.export_text().splitlines()
    assert [line.rstrip() for line in shown] == [
        "Sizes",
        "name            kind  bytes",
        "a               x        12",
        f"{NAME}  y         7",
    ]
    console.print(rich_table(TABLE, has_title=False))
    assert "Sizes" not in console.export_text()


def test_markdown() -> None:
    head, rule, first, second = markdown_table(TABLE)
    assert head == "| name | kind | bytes |"
    assert rule == "| --- | --- | ---: |"
    assert first == "| a | x | 12 |"
    assert second == f"| **{markdown_text(NAME)}** | **y** | **7** |"
    assert re.sub(r"\\(.)", r"\1", markdown_text(NAME)) == NAME
    text = TextTable("T", ("a", "b"), (("1", ""),), num_names=None)
    assert markdown_table(text)[1:] == ["| --- | --- |", "| 1 |  |"]


def test_html() -> None:
    found = parse(html_table(TABLE))
    assert found.tags.count("tr") == 3
    assert found.tags.count("td") == 6
    assert NAME in found.text
    assert found.attributes.count(("class", "figure")) == 3
    assert found.attributes.count(("class", "marked")) == 1
    assert "b" not in found.tags


def test_a_page_fetches_nothing() -> None:
    page = html_page(NAME, [html_list([NAME]), html_list([]), html_image(b"png", "a picture")])
    found = parse(page)
    assert found.text.count(NAME) == 3  # title, heading and item
    links = [value for name, value in found.attributes if name in ("src", "href")]
    assert links == ["data:,", f"data:image/png;base64,{base64.b64encode(b'png').decode()}"]
    assert "script" not in found.tags
    assert page.startswith("<!doctype html>")


def test_lines_are_told_apart_without_colour() -> None:
    styles = [line_style(index) for index in range(4)]
    for key in ("color", "marker", "linestyle"):
        assert len({style[key] for style in styles}) == 4


def test_a_figure_becomes_a_png_and_labels_stay_text() -> None:
    figure = import_matplotlib().Figure()
    figure.subplots().plot([1, 2], label=plain_label("$\\frac$"))
    figure.legend()
    data = png_of(figure)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        assert "Software" not in image.info
    assert plain_label("_hidden") == " _hidden"


def test_without_matplotlib_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match="matplotlib") as caught:
        import_matplotlib()
    assert "leave out -o" in str(caught.value)
