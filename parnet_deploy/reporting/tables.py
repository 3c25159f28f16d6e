"""A table of text, laid out for a terminal, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class TextTable:
    """A titled table: `num_names` columns of names or text, then right-aligned figures; None: text alone.

    `marked` are the rows that need attention.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_names: int | None = 1
    marked: frozenset[int] = frozenset()

    def is_figure(self, column: int) -> bool:
        """Tell whether a column holds figures."""
        return self.num_names is not None and column >= self.num_names


def rich_table(table: TextTable, *, has_title: bool = True) -> Table:
    """Return a table for a terminal; brackets in cells are text, not markup."""
    from rich.table import Table
    from rich.text import Text

    title = Text(table.title) if has_title else None
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(table.columns):
        result.add_column(Text(column), justify="right" if table.is_figure(index) else "left", overflow="fold")
    for index, row in enumerate(table.rows):
        result.add_row(*(Text(cell) for cell in row), style="bold red" if index in table.marked else None)
    return result


def markdown_text(text: str) -> str:
    """Escape what Markdown would read as layout in a name."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#$~" else character for character in text)


def markdown_table(table: TextTable) -> list[str]:
    """Return the lines of a table; rows that are marked stand in bold."""
    rules = ["---:" if table.is_figure(index) else "---" for index in range(len(table.columns))]
    lines = [_markdown_row(table.columns), "| " + " | ".join(rules) + " |"]
    return lines + [_markdown_row(row, is_bold=index in table.marked) for index, row in enumerate(table.rows)]


def _markdown_row(cells: Sequence[str], *, is_bold: bool = False) -> str:
    shown = (markdown_text(cell) for cell in cells)
    return "| " + " | ".join(f"**{cell}**" if is_bold and cell else cell for cell in shown) + " |"


def html_table(table: TextTable) -> str:
    """Return a heading and a table that scrolls sideways where it is too wide."""
    head = _html_cells(table, "th", table.columns)
    rows = "".join(
        f"{'<tr class=marked>' if index in table.marked else '<tr>'}{_html_cells(table, 'td', row)}</tr>\n"
        for index, row in enumerate(table.rows)
    )
    return (
        f'<h2>{escape(table.title)}</h2><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _html_cells(table: TextTable, tag: str, cells: Sequence[str]) -> str:
    return "".join(
        f"<{tag}{' class=figure' if table.is_figure(index) else ''}>{escape(cell)}</{tag}>"
        for index, cell in enumerate(cells)
    )
