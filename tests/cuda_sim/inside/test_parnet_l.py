"""ParNet-L by the command line on three virtual GPUs: built, inspected, run, traced, verified and benchmarked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.cli.main import run_app
from parnet_deploy.runtime import Session
from parnet_deploy.runtime.preprocess import load_images
from parnet_deploy.tuning.cuts import Source, cut_bundle

HOST_TENSORRT = Path(__file__).parents[1] / "host_tensorrt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of fused ParNet-L: whole and in two partitions; made in a process that sees no driver."""
    folder = tmp_path_factory.mktemp("parnet_l")
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    commands = [
        ["init", "parnet_l", "--seed", "0", "-o", "l.safetensors"],
        ["fuse", "l.safetensors", "-o", "fused.safetensors"],
        ["export", "fused.safetensors", "-o", "whole"],
        ["export", "fused.safetensors", "-o", "terms-shared-stem", "--partition", "terms-shared-stem"],
    ]
    program = f"from parnet_deploy.cli.main import run_app; raise SystemExit(sum(map(run_app, {commands})))"
    subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True, capture_output=True)
    cut_bundle(Source(open_bundle(folder / "whole"), "streams"), folder / "streams")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (300, 260, 3), np.uint8)).save(folder / "image.png")
    return folder


@pytest.fixture(autouse=True)
def host_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HOST_TENSORRT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HOST_TENSORRT), os.environ.get("PYTHONPATH", "")]))


def test_logits_of_three_gpus_are_the_single_sessions(
    sim: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], counts: Counter[str]
) -> None:
    def tool(*arguments: str | Path) -> str:
        capsys.readouterr()
        assert run_app([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    bundle = open_bundle(folder / "whole")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    whole = onnxruntime.InferenceSession(str(bundle.file_of("whole")), options, providers=["CPUExecutionProvider"])
    images = [load_images([folder / "image.png"], bundle.manifest.preprocessing)]
    images += [np.random.default_rng(seed).standard_normal(images[0].shape).astype(np.float32) for seed in range(2)]
    answers = [whole.run(["logits"], {"image": image})[0] for image in images]
    del whole

    ranking = json.loads(tool("plan", folder / "terms-shared-stem", "--devices", "3", "--json"))
    (tmp_path / "ranking.json").write_text(json.dumps(ranking))
    plans = {
        "streams": ["--devices", "0,1,2"],
        "terms-shared-stem": ["--placement", tmp_path / "ranking.json"],
    }
    for partition, placed in plans.items():
        plan = tmp_path / partition
        tool("build", folder / partition, "-o", plan, "--backend", "tensorrt", "--no-engine-cache", *placed)
        with Session.open(plan) as session:
            assert len({lane.device for lane in session.plan.placement.values()}) == 3
            for seed, (image, answer) in enumerate(zip(images, answers, strict=True)):
                sim.delays(seed, 2000)
                assert session.infer(image).tobytes() == answer.tobytes()
                counts["ParNet-L on three GPUs"] += 1
        sim.delays(0, 0)

    plan = tmp_path / "streams"
    # Streams 2 and 3, float32, and the image once for each device.
    crossing = 4 * (320 * 28 * 28 + 640 * 14 * 14)
    assert f"per image: {crossing / 2**20:.1f} MiB between devices" in tool("inspect", plan)
    trace = tmp_path / "trace.json"
    top = json.loads(tool("run", plan, folder / "image.png", "--trace", trace, "--cuda-graphs", "always", "--json"))
    assert top[0]["top"][0]["class"] == int(np.argmax(answers[0]))
    rows = [event for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "thread_name"]
    assert len(rows) == 3
    verified = json.loads(tool("verify", folder / "whole", plan, "--json"))
    assert verified["passed"] is True
    bench = ["--rounds", "1", "--min-queries", "3", "--duration", "0.001", "--pipelines", "2"]
    report = json.loads(tool("serve-bench", plan, *bench, "--json"))
    assert report["contenders"][0]["rounds"][0]["query_count"] >= 3
    assert report["contenders"][0]["bytes_across"] == crossing
    assert report["contenders"][0]["bytes_host"] == 4 * (3 * 3 * 224 * 224 + 1000)
    assert sim.live() == {}
