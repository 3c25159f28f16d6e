"""`tune` by the command line: really measured, once, and from the cache after that; no time decides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.runtime import Session


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the module's tunings."""
    return tmp_path_factory.mktemp("cache")


def test_every_candidate_is_measured_and_the_choice_is_written(cli, pipeline, cache: Path, tmp_path: Path) -> None:
    arguments = ["--backend", "onnxruntime", "--budget", "1", "--no-crossover", "--cache", cache]
    found = cli("tune", pipeline["split"], "-o", tmp_path / "plan", *arguments, "--json").json
    assert not found["cached"]
    assert {entry["bundle"] for entry in found["tried"]} == {"b_split"}
    assert len(found["tried"]) >= 2
    for entry in found["tried"]:
        assert len(entry["rounds_ms"]) >= 1
        assert entry["images_per_s"] == pytest.approx(1e3 / entry["latency_ms"])
        assert entry["cold_start_ms"] > 0
        assert entry["peak_bytes"] > 2**20
    (chosen,) = (entry for entry in found["tried"] if entry["status"] == "chosen")
    if chosen["is_split"]:
        for single in (entry for entry in found["tried"] if not entry["is_split"]):
            assert all(mine < its for mine, its in zip(chosen["rounds_ms"], single["rounds_ms"], strict=False))
    plan = open_plan(tmp_path / "plan").manifest
    assert plan.tuning is not None
    assert plan.tuning.chosen == chosen["label"]
    images = np.random.default_rng(0).standard_normal((1, *plan.preprocessing.input_size), np.float32)
    with Session.open(tmp_path / "plan") as tuned, Session.open(pipeline["plan_whole"]) as whole:
        expected = whole.infer(images)
        assert np.abs(tuned.infer(images) - expected).max() <= 1e-5 * np.abs(expected).max()

    shown = cli("tune", pipeline["split"], "-o", tmp_path / "again", *arguments)
    assert shown.exit_code == 0
    assert "from the cache; --no-cache measures again" in shown.stdout
    assert f"{tmp_path / 'again'}: {chosen['label']}" in shown.stdout
    for entry in found["tried"]:
        (line,) = (line for line in shown.stdout.splitlines() if line.strip().startswith(f"{entry['label']}  "))
        assert f"{entry['latency_ms']:.4g}" in line
        assert entry["status"] in line
    inspected = cli("inspect", tmp_path / "again")
    assert f"tuned: {chosen['label']}, the best of {len(found['tried'])}" in inspected.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-drop", "1"], "--max-drop needs labelled images"),
        (["--backend", "abacus"], "no backend 'abacus'"),
        (["--data", "no_such_folder"], "no_such_folder"),
    ],
)
def test_refused(cli, pipeline, tmp_path: Path, arguments: list[str], message: str) -> None:
    found = cli("tune", pipeline["split"], "-o", tmp_path / "plan", "--no-cache", "--budget", "1", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert list(tmp_path.iterdir()) == []
