"""Lay a report out for a terminal: the tables that are read first, and the answer last, where the eye is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.document import Table
from parnet_deploy.bench.output.findings import answer, comparison_findings, findings
from parnet_deploy.bench.output.tables import (
    comparison_table,
    paper_table,
    stage_table,
    start_table,
    summary_table,
    sweep_table,
)
from parnet_deploy.bench.output.words import conditions

if TYPE_CHECKING:
    import rich.table
    from rich.console import RenderableType
    from rich.text import Text


def rich_report(report: Report) -> RenderableType:
    """Return the tables, what was asked, and the findings."""
    from rich.console import Group
    from rich.text import Text

    tables = [summary_table(report), start_table(report), stage_table(report), sweep_table(report), paper_table(report)]
    if report.comparison is not None:
        tables.append(comparison_table(report, report.comparison))
    asked = Text(conditions(report.settings, len(report.reference.rounds)), style="dim")
    return Group(*(_rich_table(table) for table in tables if table.rows), asked, *_sentences(report))


def rich_answer(report: Report) -> RenderableType:
    """Return the findings alone."""
    from rich.console import Group

    return Group(*_sentences(report))


def _sentences(report: Report) -> list[Text]:
    from rich.text import Text

    compared = () if report.comparison is None else (*comparison_findings(report.comparison), *report.comparison.notes)
    return [Text(sentence) for sentence in (*findings(report), *compared)] + [Text(answer(report), style="bold")]


def _rich_table(table: Table) -> rich.table.Table:
    from rich.table import Table as RichTable
    from rich.text import Text

    result = RichTable(title=table.title, title_justify="left")
    for index, column in enumerate(table.columns):
        result.add_column(Text(column), justify="left" if table.is_name(index) else "right", overflow="fold")
    for row in table.rows:
        result.add_row(*(Text(cell) for cell in row))
    return result
