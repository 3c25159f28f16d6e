"""Lay a page out as Markdown; pictures are referred to as files of the same folder."""

from __future__ import annotations

from parnet_deploy.reporting.document import Block, Bullets, Document, Paragraph, Pictures, Preformatted, Table


def markdown_of(document: Document) -> str:
    """Return the page as Markdown."""
    parts = [f"# {_escaped(document.title)}", f"**{_escaped(document.answer)}**", _bullets(document.support)]
    parts.append(_escaped(document.introduction))
    for section in document.sections:
        parts.append(f"## {_escaped(section.title)}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Table():
            return f"### {_escaped(block.title)}\n\n{_table(block)}"
        case Paragraph():
            return _escaped(block.text)
        case Bullets():
            return _bullets(block.items)
        case Preformatted():
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Pictures():
            return "\n".join(f"![{_escaped(entry.description)}]({entry.name})" for entry in block.pictures)


def _bullets(items: tuple[str, ...]) -> str:
    return "\n".join(f"- {_escaped(item)}" for item in items)


def _table(table: Table) -> str:
    rules = ["---" if table.is_name(column) else "---:" for column in range(len(table.columns))]
    head = [_escaped(column) for column in table.columns]
    rows = [_row(row, is_bold=index in table.marked) for index, row in enumerate(table.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rules, *rows])


def _row(cells: tuple[str, ...], *, is_bold: bool) -> list[str]:
    shown = [_escaped(cell) for cell in cells]
    return [f"**{cell}**" if is_bold and cell else cell for cell in shown]


def _escaped(text: str) -> str:
    """Escape what Markdown would read as layout in a name."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#$~" else character for character in text)
