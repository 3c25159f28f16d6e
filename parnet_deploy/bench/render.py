"""Lay a report out for a terminal, as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.tables import (
    TextTable,
    conditions,
    contender_table,
    findings,
    machine_table,
    stage_table,
    summary_table,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PLOT_NAME = "latencies.png"

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #8885; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.text th, .text td { text-align: left; white-space: normal; }
img { max-width: 100%; height: auto; background: #fff; }
"""


def rich_report(report: Report) -> RenderableType:
    """Return the summary, the stages and the findings for a terminal."""
    from rich.console import Group
    from rich.text import Text

    sentences = [Text(sentence) for sentence in findings(report)]
    asked = Text(conditions(report.settings, len(report.baseline.rounds)), style="dim")
    return Group(_rich_table(summary_table(report)), _rich_table(stage_table(report)), asked, *sentences)


def _rich_table(table: TextTable) -> Table:
    from rich.table import Table
    from rich.text import Text

    result = Table(title=table.title, title_justify="left")
    for index, column in enumerate(table.columns):
        result.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for row in table.rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def markdown_report(report: Report) -> str:
    """Return the report as Markdown; the plot is referred to as a file of the same folder."""
    lines = [f"# serve-bench: {report.settings.scenario}", "", _introduction(report), ""]
    lines += [f"- {_markdown_text(sentence)}" for sentence in findings(report)]
    for table in (summary_table(report), stage_table(report)):
        lines += ["", f"## {table.title}", "", *_markdown_table(table)]
    lines += ["", f"![latencies]({PLOT_NAME})"]
    for table in (contender_table(report), machine_table(report)):
        lines += ["", f"## {table.title}", "", *_markdown_table(table, numbers=False)]
    return "\n".join(lines) + "\n"


def _introduction(report: Report) -> str:
    asked = conditions(report.settings, len(report.baseline.rounds))
    return f"parnet-deploy {report.tool_version}, {report.created}. {asked[0].upper()}{asked[1:]}."


def _markdown_text(text: str) -> str:
    """Escape what Markdown would read as layout in a name."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#$~" else character for character in text)


def _markdown_table(table: TextTable, *, numbers: bool = True) -> list[str]:
    rules = ["---", *(["---:" if numbers else "---"] * (len(table.columns) - 1))]
    rows = [table.columns, *table.rows]
    lines = ["| " + " | ".join(_markdown_text(cell) for cell in row) + " |" for row in rows]
    return [lines[0], "| " + " | ".join(rules) + " |", *lines[1:]]


def html_report(report: Report, plot_png: bytes) -> str:
    """Return the report as one page that asks nothing of the network: the plot is embedded."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(report))
    image = base64.b64encode(plot_png).decode("ascii")
    body = [
        f"<h1>serve-bench: {escape(report.settings.scenario)}</h1>",
        f"<p>{escape(_introduction(report))}</p>",
        f"<ul>{items}</ul>" if items else "",
        _html_table(summary_table(report)),
        f'<h2>Latencies</h2><img alt="distribution and percentiles of the latencies"'
        f' src="data:image/png;base64,{image}">',
        _html_table(stage_table(report)),
        _html_table(contender_table(report), css_class="text"),
        _html_table(machine_table(report), css_class="text"),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>serve-bench: {escape(report.settings.scenario)}</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(part for part in body if part)
        + "</body></html>\n"
    )


def _html_table(table: TextTable, *, css_class: str = "figures") -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows)
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table class="{css_class}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )
