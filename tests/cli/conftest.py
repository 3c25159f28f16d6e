"""Run the command line in this process: exit code, stdout and stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.cli.main import run_app


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The machine-readable result."""
        return json.loads(self.stdout)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs a command."""

    def run(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = run_app([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Take a random nano network through the whole pipeline, by the command line."""
    folder = tmp_path_factory.mktemp("pipeline")
    paths = {
        name: folder / file
        for name, file in {
            "trained": "n.safetensors",
            "fused": "nf.safetensors",
            "plain": "b_plain",
            "whole": "b_whole",
            "split": "b_split",
            "plan_plain": "p_plain",
            "plan_whole": "p_whole",
            "plan_split": "p_split",
        }.items()
    }
    steps: list[list[str | Path]] = [
        ["init", "parnet_nano", "--seed", "3", "-o", paths["trained"]],
        ["fuse", paths["trained"], "-o", paths["fused"]],
        ["export", paths["trained"], "-o", paths["plain"]],
        ["export", paths["fused"], "-o", paths["whole"], "--dynamic-batch", "1:2:4"],
        ["export", paths["fused"], "-o", paths["split"], "--split-streams"],
        *(["build", paths[name], "-o", paths[f"plan_{name}"]] for name in ("plain", "whole", "split")),
    ]
    for step in steps:
        assert run_app([str(argument) for argument in step]) == 0
    return paths
