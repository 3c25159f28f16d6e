"""Lay a page out as one HTML file that asks nothing of the network: style and pictures are inside."""

from __future__ import annotations

import base64
from functools import partial
from types import ModuleType

from parnet_deploy.bench.output.document import Document
from parnet_deploy.errors import MissingDependencyError

# A table with more columns than this becomes a list of its rows where the page is narrow.
_WIDEST_ON_A_PHONE = 3


def import_jinja2() -> ModuleType:
    """Import Jinja; raise `MissingDependencyError` if it is not installed."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError(
            f"Jinja, which lays the report out, cannot be imported ({error})",
            remedy='pip install "parnet-deploy[bench]", or leave out -o',
        ) from error
    return jinja2


def html_of(document: Document) -> str:
    """Return the page as HTML, for screens of any width, light or dark.

    Raises:
        MissingDependencyError: Jinja is not installed.
    """
    jinja2 = import_jinja2()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("parnet_deploy.bench.output", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = partial(_data_url, "image/png")
    page: str = environment.get_template("page.html.j2").render(
        document=document,
        widest=_WIDEST_ON_A_PHONE,
        kind=lambda block: type(block).__name__,
        size=_png_size,
    )
    return page


def _data_url(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def _png_size(data: bytes) -> tuple[int, int]:
    """Return the width and height of a PNG, which its header tells."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
