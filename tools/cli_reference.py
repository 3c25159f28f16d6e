"""Write docs/cli.md: every command with its arguments, options and examples, as its help shows them."""

from __future__ import annotations

import re
from typing import Any

import typer

from parnet_deploy.cli.main import app

HEAD = """# Command line reference

Written from the code by `make docs`; do not edit.

{help}

Exit codes: 0, 1 a check failed, 2 bad input, 130 interrupted. `parnet-deploy --install-completion` makes
bash, zsh or fish complete commands, options and names.
"""


def cli_reference() -> str:
    """Return the text of docs/cli.md."""
    group: Any = typer.main.get_command(app)
    context = group.make_context("parnet-deploy", [], resilient_parsing=True)
    parts = [HEAD.format(help=group.help), _options(group.get_params(context), context)]
    parts += [_index(group, context)]
    parts += [_command(group.commands[name], context) for name in group.list_commands(context)]
    return "\n".join(parts)


def _index(group: Any, context: Any) -> str:
    rows = ["| command | what it does |", "| --- | --- |"]
    for name in group.list_commands(context):
        rows.append(f"| [`{name}`](#{name}) | {_cell(_paragraphs(group.commands[name].help)[0])} |")
    return "\n".join(rows) + "\n"


def _command(command: Any, parent: Any) -> str:
    context = command.make_context(command.name, [], parent=parent, resilient_parsing=True)
    paragraphs = _paragraphs(command.help)
    examples = [text.removeprefix("Example: ") for text in paragraphs if text.startswith("Example: ")]
    told = [_unescaped(text) for text in paragraphs if not text.startswith("Example: ")]
    # Typer names arguments in braces; without, they read as in the tables.
    usage = " ".join(command.collect_usage_pieces(context)).translate(str.maketrans("{}", "  ")).split()
    shown = "\n".join(
        f"    {line}".rstrip() for line in [f"parnet-deploy {command.name} {' '.join(usage)}", "", *examples]
    )
    return "\n\n".join([f"## {command.name}", *told, shown, _options(command.get_params(context), context)])


def _options(parameters: list[Any], context: Any) -> str:
    rows = ["| argument or option | what it is |", "| --- | --- |"]
    for parameter in parameters:
        record = parameter.get_help_record(context)
        if record is not None:
            rows.append(f"| `{record[0].strip().replace('|', chr(92) + '|')}` | {_cell(record[1])} |")
    return "\n".join(rows) + "\n"


def _paragraphs(text: str | None) -> list[str]:
    return [re.sub(r"\s+", " ", paragraph).strip() for paragraph in (text or "").split("\n\n")]


def _unescaped(text: str) -> str:
    return text.replace("\\[", "[")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", _unescaped(text)).replace("|", "\\|").replace("<", "&lt;").strip()
