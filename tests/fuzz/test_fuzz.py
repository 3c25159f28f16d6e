"""A sample of the bad input of `make fuzz`, of every kind; and the harness itself: what it must notice, it notices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.case import AtEvent, Case, Outcome
from tests.fuzz.judge import judge, snapshot

ROOT = Path(__file__).parents[2]
KINDS = (
    "NaN weights", "arguments", "bad schedule", "control", "cut short", "flipped byte", "foreign manifest", "grown",
    "hostile JSON", "hostile ONNX", "hostile YAML", "hostile pickle", "hostile picture", "hostile safetensors",
    "hostile value", "impossible output", "interrupted", "killed", "missing file", "newer schema", "no space left",
    "other machine", "output exists", "path traversal", "read-only folder", "something else", "two writers",
    "unreadable input", "wrong class count", "wrong labels", "wrong size",
)  # fmt: skip
PER_KIND = 2


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    """What became of the sample, in a process that has started no thread yet, because it forks for every case."""
    command = [sys.executable, "-m", "tests.fuzz", "--json", "--per-kind", str(PER_KIND), "--jobs", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.stdout, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_ends_in_a_named_error_and_loses_nothing(results: list[dict[str, Any]], kind: str) -> None:
    of_kind = [result for result in results if result["kind"] == kind]
    assert len(of_kind) == PER_KIND
    assert {result["name"]: result["violations"] for result in of_kind if result["violations"]} == {}


def test_no_kind_is_left_out(results: list[dict[str, Any]]) -> None:
    assert tuple(sorted({result["kind"] for result in results})) == KINDS


GOOD = Outcome(2, "", "error: no such file\n  remedy: pass one\n", 0.1)
FINE = Outcome(0, "", "", 0.1)


def judged(
    folder: Path, outcome: Outcome, case: Case | None = None, *, then: Any = lambda: None, later: int = 0
) -> str:
    case = case or Case("kind", "name", ("fuse", "x"), outputs=("out",))
    before = snapshot(folder)
    then()
    found = Outcome(later, "", "error: torn" if later else "", 0.1)
    return "; ".join(judge(case, outcome, before, folder, lambda _: found).violations)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (GOOD, ""),
        (FINE, "end: done, not refused"),
        (
            Outcome(2, "", "Traceback (most recent call last):\nOSError: no\nerror: x", 0.1),
            "traceback on stderr: error: x",
        ),
        (Outcome(1, "", "error: x", 0.1), "end: failed, not refused"),
        (Outcome(2, "", "", 0.1), "unnamed: stderr names no error"),
        (Outcome(2, "{}", "error: x", 0.1), "stdout: '{}' beside an error"),
        (Outcome(-11, "", "", 0.1), "crash: exit code -11"),
        (Outcome(2, "", "error: x", 9.0, hung=True), "hang: killed after 9 s"),
        (Outcome(2, "", "error: x", 0.1, peak_bytes=2**40), "memory: 1024.0 GiB"),
    ],
)
def test_ends_are_told_apart(tmp_path: Path, outcome: Outcome, expected: str) -> None:
    found = judged(tmp_path, outcome)
    assert found.startswith(expected)
    assert bool(found) == bool(expected)


def test_lost_and_left_files_are_noticed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    assert judged(tmp_path, GOOD, then=lambda: mine.write_text("yours")) == "lost: mine.txt was changed"
    assert judged(tmp_path, GOOD, then=mine.unlink) == "lost: mine.txt was removed"
    assert judged(tmp_path, GOOD, then=(tmp_path / "out").mkdir) == "left over: out"
    assert judged(tmp_path, GOOD, then=(tmp_path / ".x.partial-1").mkdir) == "left over: .x.partial-1; left over: out"


def test_what_is_torn_by_a_kill_is_noticed(tmp_path: Path) -> None:
    killed = Outcome(-9, "", "", 0.1)
    case = Case("killed", "x", ("build", "x"), outputs=("out",), ends=frozenset({"killed"}), fault=AtEvent(1, "kill"))
    assert judged(tmp_path, killed, case, then=(tmp_path / ".out.partial-1").mkdir) == ""
    assert judged(tmp_path, killed, case, then=(tmp_path / "out").mkdir) == ""
    assert judged(tmp_path, killed, case, then=(tmp_path / "out" / "x").mkdir, later=2).startswith("later: inspect")
    assert judged(tmp_path, killed, case, then=lambda: (tmp_path / "out" / "x").rmdir(), later=0) == ""


def test_json_that_is_none_is_noticed(tmp_path: Path) -> None:
    case = Case("control", "x", ("run", "--json"), ends=frozenset({"done"}))
    assert judged(tmp_path, Outcome(0, '{"a": 1}', "", 0.1), case) == ""
    assert judged(tmp_path, Outcome(0, '{"a": NaN}', "", 0.1), case).startswith("json: stdout is not JSON (NaN)")
