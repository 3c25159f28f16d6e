"""The command: its forms of output, its exit codes, and a plan that was made slower."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.artifacts.report import Report, read_report
from parnet_deploy.cli.main import run_app

NullPlan = Callable[..., Path]
LayeredPlan = Callable[[str, int], Path]
SHORT = ("--min-queries", "70", "--duration", "0.01")


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def serve_bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs serve-bench with short rounds."""

    def run(*arguments: Any) -> Outcome:
        capsys.readouterr()
        code = run_app(["serve-bench", *SHORT, *map(str, arguments)])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def test_json_is_the_report(serve_bench, null_plan: NullPlan, tmp_path: Path) -> None:
    plan, output = null_plan("plain"), tmp_path / "r"
    found = serve_bench(plan, "--rounds", "1", "--sweep", "2", "--json", "-o", output)
    assert found.exit_code == 0
    report = Report.model_validate_json(found.stdout)
    assert report.settings.min_duration_ms == 10
    assert [contender.label for contender in report.contenders] == ["plain"]
    assert [(point.concurrency, point.batch) for point in report.contenders[0].sweep] == [(2, 1)]
    assert read_report(output) == report
    assert found.stderr == f"report: {output / 'report.html'}\n"


def test_quiet_prints_the_findings_alone(serve_bench, null_plan: NullPlan, tmp_path: Path) -> None:
    found = serve_bench(null_plan("plain"), "--rounds", "1", "--quiet", "-o", tmp_path / "r")
    assert (found.exit_code, found.stderr) == (0, "")
    assert found.stdout.splitlines()[-1].startswith("plain: ")
    assert "LoadGen" not in found.stdout
    found = serve_bench(null_plan("other"), "--rounds", "1", "--quiet", "--json")
    assert (found.exit_code, found.stderr) == (0, "")
    assert json.loads(found.stdout)["kind"] == "report"


def test_a_plan_that_was_made_slower_exits_1(serve_bench, layered_plan: LayeredPlan, tmp_path: Path) -> None:
    # Plans are matched by the names of their folders. A hundred layers against one: an order of magnitude, which no
    # noise hides.
    quick, slow = layered_plan("quick/plan", 1), layered_plan("slow/plan", 100)
    assert serve_bench(quick, "--rounds", "3", "-o", tmp_path / "r").exit_code == 0

    found = serve_bench(slow, "--rounds", "3", "--baseline", tmp_path / "r", "-o", tmp_path / "slower")
    assert found.exit_code == 1
    assert f"error: {tmp_path / 'r'}: slower than the baseline, beyond the spread: plan " in found.stderr
    assert "plan against the baseline: slower: slowdown " in found.stdout
    comparison = read_report(tmp_path / "slower").comparison
    assert comparison is not None
    assert comparison.changes[0].slowdown > 3
    assert comparison.notes == ("plan was built anew",)

    faster = serve_bench(quick, "--rounds", "3", "--baseline", tmp_path / "slower", "--json")
    assert faster.exit_code == 0
    assert json.loads(faster.stdout)["comparison"]["changes"][0]["finding"] == "faster"


def test_the_same_plan_exits_0(serve_bench, layered_plan: LayeredPlan, tmp_path: Path) -> None:
    plans = [layered_plan("first", 10), layered_plan("second", 20)]
    # So wide that no noise is beyond it: that equal runs are seldom called slower is tested with known numbers.
    compared = ("--baseline", tmp_path / "r", "--tolerance", "20")
    assert serve_bench(*plans, "--rounds", "2", "-o", tmp_path / "r").exit_code == 0
    assert serve_bench(*plans, "--rounds", "2", *compared).exit_code == 0
    found = serve_bench(
        *plans, "--rounds", "2", *compared, "--compare", "relative", "--metric", "p50_latency", "--json"
    )
    assert found.exit_code == 0
    comparison = json.loads(found.stdout)["comparison"]
    assert (comparison["by"], comparison["metric"]) == ("relative", "p50_latency")
    assert [change["contender"] for change in comparison["changes"]] == ["second"]


def test_a_report_takes_the_place_of_its_own_baseline(serve_bench, null_plan: NullPlan, tmp_path: Path) -> None:
    plan, folder = null_plan("plain"), tmp_path / "r"
    assert serve_bench(plan, "--rounds", "2", "-o", folder).exit_code == 0
    first = read_report(folder)
    found = serve_bench(plan, "--rounds", "2", "--baseline", folder, "--tolerance", "20", "-o", folder, "--force")
    assert found.exit_code == 0
    comparison = read_report(folder).comparison
    assert comparison is not None
    assert comparison.created == first.created


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "1,x"], ["--sweep", "1,x"]),
        (["--sweep-batches", "1"], ["no sweep"]),
        (["--baseline", "nowhere"], ["nowhere", "report.json"]),
        (["--rounds", "0"], ["rounds"]),
        (["--tolerance", "-1"], ["tolerance"]),
        (["--baseline", "nowhere", "--tolerance", "inf"], ["tolerance"]),
        (["--duration", "inf"], ["duration"]),
    ],
)
def test_bad_options_exit_2(serve_bench, null_plan: NullPlan, arguments: list[str], words: list[str]) -> None:
    found = serve_bench(null_plan("plain"), *arguments)
    assert found.exit_code == 2
    assert all(word in found.stderr for word in words)
    assert "Traceback" not in found.stderr
