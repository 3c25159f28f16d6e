"""The blocks of the documentation do what they say: each page's are run in order, in one folder, as a reader would."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.artifacts.folders import open_card
from parnet_deploy.cli.main import run_app
from parnet_deploy.runtime import Session

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


def readme_block(heading: str) -> str:
    """Return the first indented block below a heading of the README."""
    section = (DOCS.parent / "README.md").read_text().split(f"## {heading}\n")[1]
    return textwrap.dedent(re.findall(r"(?:^    .*\n|^\n(?=    ))+", section, re.MULTILINE)[0]).lstrip()


@pytest.mark.usefixtures("one_thread")
def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main job and its Python twin, on a small network in place of the one that is fetched."""
    monkeypatch.chdir(tmp_path)
    fetch, *commands = readme_block("The main job").splitlines()
    assert fetch == "parnet-deploy pull parnet-l -o l.safetensors"
    assert run_app(["init", "parnet_pico", "--seed", "0", "-o", "l.safetensors"]) == 0
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (80, 80, 3), np.uint8)).save("photo.jpg")
    assert [shlex.split(line)[1] for line in commands] == ["fuse", "export", "build", "verify", "run"]
    for line in commands:
        assert run_app(shlex.split(line)[1:]) == 0, line
    for folder in ("bundle", "plan"):
        shutil.move(folder, f"{folder}_by_commands")
    size = open_card(Path("l.safetensors")).manifest.preprocessing.input_size
    names: dict[str, Any] = {"images": random.standard_normal((1, *size)).astype(np.float32)}
    exec(compile(readme_block("From Python"), "README.md", "exec"), names)  # the project's own page
    with Session.open("plan_by_commands") as session:
        np.testing.assert_array_equal(session.infer(names["images"]), names["logits"])
