"""Write a page of results into a folder in its forms: HTML, Markdown and the pictures that Markdown refers to."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.reporting.document import Document
from parnet_deploy.reporting.html import html_of, import_jinja2
from parnet_deploy.reporting.markdown import markdown_of
from parnet_deploy.reporting.pictures import import_matplotlib


def check_publishing() -> None:
    """Raise `MissingDependencyError` if what draws a report is not installed."""
    import_matplotlib()
    import_jinja2()


def write_page(folder: Path, document: Document) -> None:
    """Write `report.html`, `report.md` and the light pictures into an existing folder.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    for name, text in (("report.html", html_of(document)), ("report.md", markdown_of(document))):
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    for picture in document.pictures:
        (folder / picture.name).write_bytes(picture.light_png)
