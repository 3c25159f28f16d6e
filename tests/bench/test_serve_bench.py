"""Whole benchmarks over the null backend: real child processes, short runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.report import read_report
from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.bench import processes
from parnet_deploy.bench import serve_bench as serve_bench_module
from parnet_deploy.bench.contenders import labels_of
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.serve_bench import Progress, serve_bench
from parnet_deploy.bench.sweep import SweepOptions
from parnet_deploy.errors import ArtifactError, InferenceError, MissingDependencyError, OutputExistsError

NullPlan = Callable[..., Path]
SHORT = settings_for("single-stream", min_queries=70, duration_ms=10)


def test_plans_take_turns_and_the_first_is_the_reference(null_plan: NullPlan, tmp_path: Path) -> None:
    plans = [null_plan("plain"), null_plan("split", "streams")]
    steps: list[Progress] = []
    output = tmp_path / "report"
    report = serve_bench(plans, SHORT, rounds=2, output=output, on_progress=steps.append)

    assert [(step.done, step.total, step.description) for step in steps] == [
        (0, 6, "plain, round 1 of 2"),
        (1, 6, "split, round 1 of 2"),
        (2, 6, "plain, round 2 of 2"),
        (3, 6, "split, round 2 of 2"),
        (4, 6, "plain, with empty engines"),
        (5, 6, "split, with empty engines"),
        (6, 6, "done"),
    ]
    assert [contender.label for contender in report.contenders] == ["plain", "split"]
    assert [contender.partition for contender in report.contenders] == ["whole", "streams"]
    assert [len(contender.rounds) for contender in report.contenders] == [2, 2]
    for contender in report.contenders:
        assert contender.latency.count == sum(len(entry.latencies_ns) for entry in contender.rounds)
        # A new process each time, so never less than it takes to start an interpreter and import numpy.
        assert all(entry.cold_start.process_ms > 10 for entry in contender.rounds)
        assert contender.harness is not None
        assert contender.harness.count >= 64
        assert contender.sweep == ()
    ratio = report.ratio_of("split", "p50_latency")
    assert ratio is not None
    medians = [[entry.latency.p50_ms for entry in contender.rounds] for contender in report.contenders]
    assert ratio.per_round == pytest.approx([base / split for base, split in zip(*medians, strict=True)])
    assert report.ratio_of("plain", "p50_latency") is None

    assert read_report(output) == report
    page = (output / "report.html").read_text()
    assert "plain" in page
    assert "split" in page


def test_server_targets_are_those_of_the_first_run(null_plan: NullPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[float | None, float | None]] = []
    original = serve_bench_module.run_round

    def recording(plan: Path, label: str, settings: serve_bench_module.ScenarioSettings) -> object:
        if settings.scenario == "server":
            asked.append((settings.target_qps, settings.target_latency_ms))
        return original(plan, label, settings)

    monkeypatch.setattr(serve_bench_module, "run_round", recording)
    plan = null_plan("plain")
    settings = settings_for("server", min_queries=20, duration_ms=10)
    report = serve_bench([plan, plan], settings, rounds=1)
    # The null backend answers within a millisecond, so the targets are those of a millisecond.
    assert asked == [(None, None), (500.0, 10.0)]
    assert (report.settings.target_qps, report.settings.target_latency_ms) == (500.0, 10.0)
    assert [contender.label for contender in report.contenders] == ["plain#1", "plain#2"]


def test_a_plan_that_fails_in_its_process_is_named(null_plan: NullPlan, tmp_path: Path) -> None:
    good, bad = null_plan("good"), null_plan("bad")
    manifest = json.loads((bad / "plan.json").read_text())
    manifest["backend_version"] = "of another machine"
    (bad / "plan.json").write_text(json.dumps(manifest))
    with pytest.raises(InferenceError) as caught:
        serve_bench([good, bad], SHORT, rounds=1, output=tmp_path / "report")
    message = str(caught.value)
    assert str(bad) in message
    assert "exit status 2" in message
    assert "of another machine" in message
    assert "Traceback" not in message
    assert not (tmp_path / "report").exists()


def test_what_a_crash_wrote_is_reported(null_plan: NullPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os, signal, sys; sys.stderr.write('last words'); sys.stderr.flush(); os.kill(os.getpid(), 9)"
    original = subprocess.run
    monkeypatch.setattr(
        processes.subprocess, "run", lambda _, **options: original([sys.executable, "-c", crash], **options)
    )
    with pytest.raises(InferenceError, match=r"plain .* ended by SIGKILL \(out of memory\?\):\n  last words"):
        serve_bench([null_plan("plain")], SHORT, rounds=1)


def test_bad_requests_are_refused_before_anything_runs(
    null_plan: NullPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_run(*_: object) -> None:
        pytest.fail("a worker was started")

    monkeypatch.setattr(serve_bench_module, "run_round", must_not_run)
    plan = null_plan("plain")
    with pytest.raises(InferenceError, match="at least one plan"):
        serve_bench([], SHORT)
    with pytest.raises(InferenceError, match="one round"):
        serve_bench([plan], SHORT, rounds=0)
    with pytest.raises(ArtifactError, match=r"no plan\.json"):
        serve_bench([plan, tmp_path], SHORT)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputExistsError):
        serve_bench([plan], SHORT, output=tmp_path / "taken")
    with pytest.raises(InferenceError, match="plain takes batches of 1 to 1"):
        serve_bench([plan], SHORT, sweep=SweepOptions((1,), (4,)))


def test_a_sweep_has_every_point_of_every_plan(null_plan: NullPlan) -> None:
    plans = [null_plan("one"), null_plan("many", "whole", BatchRange(min=1, opt=2, max=4))]
    steps: list[Progress] = []
    report = serve_bench(plans, SHORT, rounds=1, sweep=SweepOptions((1, 2)), on_progress=steps.append)
    points = [[(point.concurrency, point.batch) for point in entry.sweep] for entry in report.contenders]
    assert points == [[(1, 1), (2, 1)], [(1, 1), (2, 1), (1, 2), (2, 2), (1, 4), (2, 4)]]
    assert [step.total for step in steps] == [12] * 13
    assert steps[-2].description == "many, 2 at once, batch 4"


@pytest.mark.parametrize("module", ["mlperf_loadgen", "matplotlib.figure", "jinja2"])
def test_a_missing_package_is_named_with_its_extra(
    null_plan: NullPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    plan = null_plan("plain")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"parnet-deploy\[bench\]"):
        serve_bench([plan], SHORT, output=tmp_path / "report")


@pytest.mark.parametrize(
    ("plans", "labels"),
    [
        (["/a/plain", "/a/split"], ["plain", "split"]),
        (["/a/plan", "/b/plan", "/b/other"], ["a/plan", "b/plan", "other"]),
        (["/a/plan", "/a/plan"], ["plan#1", "plan#2"]),
        (["/x/a/plan", "/y/a/plan", "/x/a/plan"], ["x/a/plan#1", "y/a/plan", "x/a/plan#2"]),
    ],
)
def test_labels(plans: list[str], labels: list[str]) -> None:
    assert labels_of([Path(plan) for plan in plans]) == tuple(labels)


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=8))
def test_labels_tell_all_plans_apart(parts: list[list[str]]) -> None:
    plans = [Path("/", *names) for names in parts]
    labels = labels_of(plans)
    assert len(set(labels)) == len(plans)
    assert all(str(plan).endswith(label.partition("#")[0]) for plan, label in zip(plans, labels, strict=True))


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, parnet_deploy.bench, parnet_deploy.bench.serve_bench, parnet_deploy.bench.worker\n"
        "heavy = {'torch', 'mlperf_loadgen', 'matplotlib', 'jinja2', 'onnxruntime', 'onnx'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
