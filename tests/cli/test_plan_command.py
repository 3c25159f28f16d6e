"""`plan`: rankings of bundles by given, measured and estimated times, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from parnet_deploy.artifacts.files import SEAL
from parnet_deploy.cli.main import run_app

SPLIT_MS = {"stream1": 2.0, "stream2": 2.5, "stream3": 3.0, "join": 1.0}
# Nothing but the tensors' bytes, at 1 kB per microsecond between GPUs.
WIRE = {"name": "wire", "latency_us": 0, "bandwidth_gb_s": 1, "host_latency_us": 0, "host_bandwidth_gb_s": 1e9}


@pytest.fixture(scope="module")
def fixed(pipeline: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The nano network with a batch of one in several partitions."""
    folder = tmp_path_factory.mktemp("fixed")
    made = {"streams": pipeline["split"]}
    for partition in ("whole", "terms"):
        made[partition] = folder / partition
        assert run_app(["export", str(pipeline["fused"]), "-o", str(made[partition]), "--partition", partition]) == 0
    return made


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_given_times_rank_by_hand(cli, fixed, tmp_path: Path) -> None:
    times = write(tmp_path / "times.json", SPLIT_MS)
    link = write(tmp_path / "link.json", WIRE)
    found = cli("plan", fixed["streams"], "--devices", "3", "--link", link, "--times", times, "--json").json
    tensors = json.loads((fixed["streams"] / "bundle.json").read_text())["tensors"]
    size = {name: 4 * math.prod(spec["shape"]) for name, spec in tensors.items()}
    best = found["ranking"][0]
    assert best["placement"] == {
        "stream1": "cuda:0/0",
        "stream2": "cuda:1/0",
        "stream3": "cuda:2/0",
        "join": "cuda:2/0",
    }
    assert best["bytes_across"] == size["stream1"] + size["stream2"]
    assert best["bytes_host"] == 3 * size["image"] + size["logits"]
    # Streams 1 and 2 arrive before stream 3 ends.
    assert best["latency_ms"] == pytest.approx(4.0, abs=1e-3)
    assert best["throughput_per_s"] == pytest.approx(1e3 / 4.0, rel=1e-3)
    assert found["one_lane"]["latency_ms"] == pytest.approx(8.5, abs=1e-3)
    assert [entry["rank"] for entry in found["ranking"]] == list(range(1, 11))
    latencies = [entry["latency_ms"] for entry in found["ranking"]]
    assert latencies == sorted(latencies)
    assert {span["what"] for span in found["timeline"] if not span["is_copy"]} == set(SPLIT_MS)
    assert found["times"][0]["source"] == f"given by {times}"


def test_several_bundles_are_ranked_together(cli, fixed, tmp_path: Path) -> None:
    by_name = {
        fixed["streams"].name: SPLIT_MS,
        fixed["whole"].name: {"whole": 3.9},
        fixed["terms"].name: SPLIT_MS | {"join": 0.5},
    }
    times = write(tmp_path / "times.json", by_name)
    arguments = ["plan", *fixed.values(), "--devices", "3", "--times", times, "--top", "40", "--json"]
    found = cli(*arguments).json
    # 14 ways to put four stages on at most three equal devices, twice, and one way for one stage.
    assert len(found["ranking"]) == 14 + 14 + 1
    assert found["ranking"][0]["partition"] == "terms"
    assert found["ranking"][0]["bundle"] == str(fixed["terms"])
    assert found["one_lane"]["partition"] == "whole"


def test_a_staged_link_is_slower_and_a_second_stream_crosses_nothing(cli, fixed, tmp_path: Path) -> None:
    times = write(tmp_path / "times.json", SPLIT_MS)
    common = ["plan", fixed["streams"], "--times", times, "--json"]
    peer = cli(*common, "--devices", "3", "--link", "pcie3x16").json
    staged = cli(*common, "--devices", "3", "--link", "pcie3x16", "--staged").json
    assert staged["link"]["peer"] is False
    assert peer["link"]["peer"] is True
    assert staged["ranking"][0]["latency_ms"] >= peer["ranking"][0]["latency_ms"]
    streams = cli(*common, "--streams", "3").json["ranking"][0]
    assert {lane.split("/")[0] for lane in streams["placement"].values()} == {"cuda:0"}
    assert streams["bytes_across"] == 0


def test_estimates_say_that_they_are_estimates(cli, fixed) -> None:
    shown = cli("plan", fixed["streams"], fixed["terms"], "--devices", "3", "--link", "pcie4x16")
    assert shown.exit_code == 0
    assert "ESTIMATED by the roofline of rtx3090 fp32" in shown.stdout
    assert "calibrated on the paper's 6.50 ms" in shown.stdout
    assert "timeline of rank 1" in shown.stdout
    assert "cuda:0/0" in shown.stdout
    assert "link pcie4x16: between GPUs 3 us" in shown.stdout
    found = cli("plan", fixed["streams"], "--devices", "3", "--device-profile", "rtx3090", "--json").json
    assert found["times"][0]["source"].startswith("ESTIMATED")
    stages = json.loads((fixed["streams"] / "bundle.json").read_text())["stages"]
    for stage in stages:
        expected_ms = stage["gflop"] / (26.65 / 6.5)
        assert found["times"][0]["stage_ms"][stage["name"]] >= expected_ms * 0.999


def test_a_plan_is_measured_here(cli, fixed, pipeline) -> None:
    found = cli("plan", fixed["streams"], "--devices", "2", "--times", pipeline["plan_split"], "--json").json
    assert found["times"][0]["source"].startswith("measured here, onnxruntime on cpu")
    assert set(found["times"][0]["stage_ms"]) == set(SPLIT_MS)
    assert all(value > 0 for value in found["times"][0]["stage_ms"].values())


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        ({"stream1": 1.0}, "times of stream1, but the bundle's stages are stream1, stream2, stream3, join"),
        (SPLIT_MS | {"join": 0}, "greater than 0"),
        (SPLIT_MS | {"join": "1"}, "valid number"),
        (SPLIT_MS | {"extra": 1.0}, "extra"),
        ({"other": SPLIT_MS}, "'other' names 0 of the bundles"),
        ([1, 2], "valid dictionary"),
        ({}, "stages are stream1"),
    ],
)
def test_times_that_do_not_fit_are_refused(cli, fixed, tmp_path: Path, content: object, fragment: str) -> None:
    found = cli("plan", fixed["streams"], "--times", write(tmp_path / "times.json", content))
    assert found.exit_code == 2
    assert fragment in found.stderr
    assert "remedy:" in found.stderr
    assert found.stdout == ""


def test_bad_input_is_refused(cli, fixed, pipeline, tmp_path: Path) -> None:
    streams, times = fixed["streams"], write(tmp_path / "times.json", SPLIT_MS)
    broken = tmp_path / "broken.json"
    broken.write_text('{"stream1": 1')
    no_rate = write(tmp_path / "link.json", WIRE | {"bandwidth_gb_s": 0})
    cases: list[tuple[list[str | Path], str]] = [
        ([streams, "--times", broken], "not valid JSON"),
        ([streams, "--times", tmp_path / "nothing"], "no such file or folder"),
        ([streams, "--times", pipeline["plan_whole"]], "made from none of the bundles"),
        ([streams, fixed["whole"], "--times", times], "times of one bundle, but several"),
        ([streams, fixed["whole"], "--times", pipeline["plan_split"]], "no --times for this bundle"),
        ([streams, pipeline["whole"]], "differs from"),
        ([streams, "--times", times, "--device-profile", "h100"], "exclude each other"),
        ([streams, "--device-profile", "tpu"], "one of: rtx3090, h100"),
        ([streams, "--device-profile", "h100"], "h100 is for fp16"),
        ([streams, "--link", "token-ring"], "one of nvlink4, pcie4x16, pcie3x16"),
        ([streams, "--link", no_rate], "bandwidth_gb_s"),
        ([streams, "--link", broken], "not valid JSON"),
        ([tmp_path / "nothing"], "no bundle.json"),
    ]
    for arguments, fragment in cases:
        found = cli("plan", *arguments)
        assert found.exit_code == 2
        assert fragment in found.stderr
        assert "Traceback" not in found.stderr
        assert found.stdout == ""


def test_a_bundle_without_operations_is_refused_with_the_remedy(cli, fixed, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(fixed["streams"], old)
    manifest = json.loads((old / "bundle.json").read_text())
    del manifest[SEAL]
    for stage in manifest["stages"]:
        del stage["gflop"]
    (old / "bundle.json").write_text(json.dumps(manifest))
    found = cli("plan", old, "--devices", "3")
    assert found.exit_code == 2
    assert "export it again" in found.stderr
    times = write(tmp_path / "times.json", SPLIT_MS)
    assert cli("plan", old, "--devices", "3", "--times", times).exit_code == 0
