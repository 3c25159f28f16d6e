"""Lay a page out as Markdown; pictures are referred to as files of the same folder."""

from __future__ import annotations

from parnet_deploy.bench.output.document import Block, Bullets, Document, Paragraph, Pictures, Preformatted, Table


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
    rows = [[_escaped(cell) for cell in row] for row in (table.columns, *table.rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], rules, *rows[1:]])


def _escaped(text: str) -> str:
    """Escape what Markdown would read as layout in a name."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#$~" else character for character in text)
