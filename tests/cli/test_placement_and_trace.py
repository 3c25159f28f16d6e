"""Stages placed by a file, and timelines for trace viewers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.artifacts.folders import open_plan


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(path)
    return path


def placed(cli: Callable[..., Any], bundle: Path, tmp_path: Path, content: object) -> Any:
    (tmp_path / "placement.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return cli("build", bundle, "-o", tmp_path / "plan", "--placement", tmp_path / "placement.json", "--json")


def test_stages_run_where_a_file_says(cli: Callable[..., Any], pipeline: dict[str, Path], tmp_path: Path) -> None:
    wanted = {"stream1": "cpu/2", "stream2": "cpu/0", "stream3": "cpu/0", "join": "cpu/1"}
    outcome = placed(cli, pipeline["split"], tmp_path, wanted)
    assert outcome.exit_code == 0
    plan = open_plan(tmp_path / "plan").manifest
    assert {stage: str(lane) for stage, lane in plan.placement.items()} == wanted
    assert cli("verify", pipeline["split"], tmp_path / "plan").exit_code == 0


def test_the_best_placement_of_a_ranking_is_taken(
    cli: Callable[..., Any], pipeline: dict[str, Path], tmp_path: Path
) -> None:
    """A ranking places on GPUs, which ONNX Runtime's backend for the processor says that it does not run on."""
    ranked = cli("plan", pipeline["split"], "--devices", "2", "--json")
    assert ranked.exit_code == 0
    outcome = placed(cli, pipeline["split"], tmp_path, ranked.stdout)
    assert outcome.exit_code == 2
    assert "backend 'onnxruntime' runs on the cpu, not on cuda:" in outcome.stderr
    assert (
        "the ranking has no placement of partition 'whole'"
        in placed(cli, pipeline["whole"], tmp_path, ranked.stdout).stderr
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stream1": "cpu/0"}, "the placement is for stages stream1, the bundle has stream1, stream2, stream3, join"),
        ({"stream1": "gpu0"}, "'gpu0' is no lane"),
        ({"stream1": "cpu/x"}, "'cpu/x' is no lane"),
        ({"stream1": "cpu/-1"}, "'cpu/-1' is no lane"),
        ({"stream1": 3}, "holds no placement"),
        ([1], "holds no placement"),
        ({"ranking": 3}, "has no placement of partition 'streams'"),
        ({"ranking": [{"partition": "streams"}]}, "holds no placement"),
        ("{", "not valid JSON"),
    ],
)
def test_a_file_that_places_nothing_is_refused(
    cli: Callable[..., Any], pipeline: dict[str, Path], tmp_path: Path, content: object, message: str
) -> None:
    outcome = placed(cli, pipeline["split"], tmp_path, content)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert "remedy" in outcome.stderr
    assert not (tmp_path / "plan").exists()


def test_a_missing_placement_and_two_choices_of_devices_are_refused(
    cli: Callable[..., Any], pipeline: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["build", pipeline["split"], "-o", tmp_path / "plan", "--placement"]
    assert "cannot be read (No such file" in cli(*arguments, tmp_path / "nothing.json").stderr
    (tmp_path / "p.json").write_text('{"stream1": "cuda:0"}')
    assert "a placement names its devices itself" in cli(*arguments, tmp_path / "p.json", "--devices", "0,1").stderr


def test_a_run_writes_a_trace(cli: Callable[..., Any], pipeline: dict[str, Path], tmp_path: Path, image: Path) -> None:
    trace = tmp_path / "trace.json"
    outcome = cli("run", pipeline["plan_split"], image, "--trace", trace)
    assert outcome.exit_code == 0
    assert f"trace: {trace}" in outcome.stderr
    events = json.loads(trace.read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert sorted(event["name"] for event in spans) == sorted(5 * ["stream1", "stream2", "stream3", "join"])
    assert all(event["dur"] > 0 for event in spans)
    # What is there is not overwritten, and nothing is run for it.
    again = cli("run", pipeline["plan_split"], image, "--trace", trace)
    assert again.exit_code == 2
    assert again.stdout == ""
    assert cli("run", pipeline["plan_split"], image, "--trace", trace, "--force").exit_code == 0


def test_a_prediction_writes_a_trace(cli: Callable[..., Any], pipeline: dict[str, Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    outcome = cli("plan", pipeline["split"], "--devices", "3", "--trace", trace, "--json")
    assert outcome.exit_code == 0
    events = json.loads(trace.read_text())["traceEvents"]
    spans = {event["name"]: event for event in events if event["ph"] == "X"}
    for entry in outcome.json["timeline"]:
        assert spans[entry["what"]]["ts"] == pytest.approx(entry["start_ms"] * 1e3)
        assert spans[entry["what"]]["dur"] == pytest.approx((entry["end_ms"] - entry["start_ms"]) * 1e3)
