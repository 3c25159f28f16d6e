"""Every message that docs/troubleshooting.md explains is one that the code still gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MESSAGES = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)


def strings_of(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a module; what is filled in is an ellipsis, as in the page."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def said() -> list[str]:
    """All strings of the package."""
    files = (ROOT / "parnet_deploy").rglob("*.py")
    return [text for path in files for text in strings_of(ast.parse(path.read_text()))]


def test_enough_is_explained() -> None:
    assert len(MESSAGES) == len(set(MESSAGES)) >= 20


@pytest.mark.parametrize("message", MESSAGES)
def test_message_is_in_the_code(message: str, said: list[str]) -> None:
    assert any(message in text for text in said)
