"""Lay a verification out for a terminal, as Markdown and as one self-contained HTML page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from parnet_deploy.artifacts.verification import Verification
from parnet_deploy.checks.tables import artefact_table, change_table, environment_table, layer_table, tensor_table
from parnet_deploy.checks.verification import findings, verdict
from parnet_deploy.reporting.pages import html_image, html_list, html_page
from parnet_deploy.reporting.tables import TextTable, html_table, markdown_table, markdown_text, rich_table

if TYPE_CHECKING:
    from rich.console import RenderableType

PICTURE_NAME = "differences.png"
_ALT = "difference of every layer on a logarithmic scale, one line per set of images, with the tolerance"


def rich_verification(verification: Verification, *, has_layers: bool = True) -> RenderableType:
    """Return the tables, with or without that of the layers, the findings and the verdict for a terminal."""
    from rich.console import Group
    from rich.text import Text

    tables = [rich_table(table, has_title=False) for table in _tables(verification, has_layers=has_layers)]
    return Group(*tables, *(Text(sentence) for sentence in findings(verification)), verdict(verification))


def _tables(verification: Verification, *, has_layers: bool = True) -> list[TextTable]:
    tables = [tensor_table(verification)]
    if has_layers and verification.comparisons[0].layers:
        tables.append(layer_table(verification))
    if verification.changes:
        tables.append(change_table(verification))
    return tables


def _title(verification: Verification) -> str:
    return f"verify: {verification.b.name} against {verification.a.name}"


def _introduction(verification: Verification) -> str:
    bound = verification.tolerance
    allowed = f"Tolerance for {bound.precision}: {bound.reason}" if bound.reason else "Tolerance as it was asked for."
    return f"parnet-deploy {verification.environment.tool_version}, {verification.created}. {allowed}"


def markdown_report(verification: Verification) -> str:
    """Return the report as Markdown; the picture is referred to as a file of the same folder."""
    lines = [f"# {markdown_text(_title(verification))}", "", f"**{markdown_text(verdict(verification))}**", ""]
    lines += [f"- {markdown_text(sentence)}" for sentence in findings(verification)]
    lines += ["", markdown_text(_introduction(verification)), "", f"![{_ALT}]({PICTURE_NAME})"]
    for table in (*_tables(verification), artefact_table(verification), environment_table(verification)):
        lines += ["", f"## {table.title}", "", *markdown_table(table)]
    return "\n".join(lines) + "\n"


def html_report(verification: Verification, picture_png: bytes) -> str:
    """Return the report as one page that asks nothing of the network: the picture is embedded."""
    first, *rest = _tables(verification)
    return html_page(
        _title(verification),
        [
            f'<p class="verdict">{escape(verdict(verification))}</p>',
            html_list(findings(verification)),
            f"<p>{escape(_introduction(verification))}</p>",
            html_table(first),
            f"<h2>Difference by layer</h2>{html_image(picture_png, _ALT)}",
            *(html_table(table) for table in rest),
            html_table(artefact_table(verification)),
            html_table(environment_table(verification)),
        ],
    )
