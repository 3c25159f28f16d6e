"""`build --backend tensorrt` and `inspect` of what it made, on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="not installed: pip install 'parnet-deploy[tensorrt-rtx]'")

BUILD = ("build", "--backend", "tensorrt")


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, and no GPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("parnet_deploy.engines.tensorrt.list_gpus", lambda: ())
    return tmp_path / "cache"


def test_four_engines_for_two_gpus_that_are_not_here(cli, pipeline, tmp_path: Path, cache_home: Path) -> None:
    built = cli(*BUILD, pipeline["split"], "-o", tmp_path / "plan", "--compute-capability", "86,89")
    assert built.exit_code == 0
    assert built.stderr == ""
    assert [line.split()[0] for line in built.stdout.splitlines()[1:5]] == ["stream1", "stream2", "stream3", "join"]
    assert "convolution" in built.stdout
    assert "on compute capability 8.6, 8.9" in built.stdout
    assert len(list(cache_home.rglob("*.engine"))) == 4
    inspected = cli("inspect", tmp_path / "plan")
    assert inspected.exit_code == 0
    assert all(f" {stage}.engine " in inspected.stdout for stage in ("stream1", "stream2", "stream3", "join"))
    assert "built for cuda:0: compute capability 8.6, 8.9 (sm86 sm89) with tensorrt rtx" in inspected.stdout
    assert "not measured" in inspected.stdout


def test_one_lane_on_each_device_and_nothing_kept(cli, pipeline, tmp_path: Path, cache_home: Path) -> None:
    arguments = ("--devices", "0,1,2", "--compute-capability", "120", "--no-engine-cache", "--json")
    plan = cli(*BUILD, pipeline["split"], "-o", tmp_path / "plan", *arguments).json
    assert {name: lane["device"] for name, lane in plan["placement"].items()} == {
        "stream1": "cuda:0",
        "stream2": "cuda:1",
        "stream3": "cuda:2",
        "join": "cuda:0",
    }
    assert [device["capability"] for device in plan["devices"]] == ["sm120"] * 3
    assert not cache_home.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compute-capability", "90"), "cannot build for compute capability 90"),
        (("--compute-capability", "ampere"), "no list of compute capabilities"),
        (("--compute-capability", "86", "--devices", "one"), "no list of devices"),
        (("--compute-capability", "86", "--threads", "2"), "takes no thread count"),
        (("--compute-capability", "86", "--refit"), "refittable engines are built on a GPU"),
        (("--compute-capability", "86", "--trt-flavour", "tensorrt"), "only for the GPU that it runs on"),
        (("--trt-flavour", "rtx"), "finds no GPU here"),
        (("--compute-capability", "75"), "--precision fp16, or leave 75 out"),
    ],
)
def test_what_cannot_work_ends_with_a_message(
    cli, pipeline, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    found = cli(*BUILD, pipeline["split"], "-o", tmp_path / "plan", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert "remedy:" in found.stderr
    assert not (tmp_path / "plan").exists()


def test_a_plan_for_gpus_is_not_run_where_there_is_none(cli, pipeline, tmp_path: Path) -> None:
    cli(*BUILD, pipeline["whole"], "-o", tmp_path / "plan", "--compute-capability", "86")
    found = cli("verify", pipeline["trained"], tmp_path / "plan")
    assert found.exit_code == 2
    assert "finds no GPU here" in found.stderr
