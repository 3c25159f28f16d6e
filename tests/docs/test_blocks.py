"""The blocks of the documentation do what they say: each page's are run in order, in one folder, as a reader would."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.cli.main import run_app

DOCS = Path(__file__).parents[2] / "docs"
RUNNABLE = ("python", "sh")


def blocks(page: str) -> list[tuple[str, str]]:
    """Return language and text of a page's runnable blocks."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in found if language in RUNNABLE]


def run_blocks(page: str) -> int:
    """Run a page's blocks in the current folder; return how many there are."""
    names: dict[str, Any] = {}
    for language, text in blocks(page):
        if language == "python":
            exec(compile(text, page, "exec"), names)  # the project's own pages
            continue
        for line in text.splitlines():
            words = shlex.split(line)
            assert words[0] == "parnet-deploy", line
            assert run_app(words[1:]) == 0, line
    return len(blocks(page))


@pytest.mark.parametrize(("page", "count"), [("fusion.md", 4), ("artefacts.md", 1)])
def test_blocks_run(page: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks(page) == count


@pytest.mark.usefixtures("one_thread")
def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_blocks("tutorial.md") == 9
    assert Path("report/report.html").exists()
    capsys.readouterr()
    assert run_app(["evaluate", "plan_split", "photos", "--held-out", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)
    assert accuracy["count"] == 24
    assert accuracy["top1"] >= 90.0
