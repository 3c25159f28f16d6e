"""Lay tables out for a terminal; brackets in cells are text, not markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parnet_deploy.reporting.document import Table

if TYPE_CHECKING:
    import rich.table


def rich_table(table: Table) -> rich.table.Table:
    """Return a table for a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text

    result = RichTable(title=Text(table.title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(table.columns):
        result.add_column(Text(column), justify="left" if table.is_name(index) else "right", overflow="fold")
    for index, row in enumerate(table.rows):
        result.add_row(*(Text(cell) for cell in row), style="bold red" if index in table.marked else None)
    return result
