"""The shipped digits network by the command line: as accurate in int8, on both engines; refused where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.artifacts.files import read_manifest
from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.artifacts.quantization import QuantizationReport
from parnet_deploy.cli.main import run_app
from parnet_deploy.datasets.digits import load_digits


def evaluate(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run_app(["evaluate", str(path), "digits", "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_quantize_then_evaluate(digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "int8"
    assert run_app(["quantize", str(digits_bundle), "--data", "digits", "--images", "64", "-o", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "0 of 45 (0% of the operations)" in shown
    assert "359 images (all 359 held-out images of digits)" in shown
    before, after = (evaluate(path, capsys) for path in (digits_bundle, output))
    record = open_bundle(output).manifest.quantization
    assert record is not None
    assert record.gate is not None
    assert (record.gate.before, record.gate.after) == (before["top1"], after["top1"])
    assert before["top1"] == pytest.approx(100 * 357 / 359)
    assert record.gate.drop <= 0.5
    assert record.float_layers == ()
    assert record.layers == 45
    assert (record.calibration.count, record.selection.count) == (64, 16)
    hashes = {images.sha256 for images in (record.calibration, record.selection, record.gate.images)}
    assert len(hashes) == 3
    # A quarter of the float weights, and the scales and names of Q/DQ around them.
    assert (
        open_bundle(output).file_of("whole").stat().st_size
        < 0.42 * open_bundle(digits_bundle).file_of("whole").stat().st_size
    )

    path = output / "quantization.json"
    report, _ = read_manifest(path, QuantizationReport, kind="quantization-report", schema_version=1)
    assert [score.method for score in report.methods] == ["min-max", "percentile", "mse", "entropy"]
    assert record.method == max(report.methods, key=lambda score: score.sqnr_db).method
    assert report.sqnr_db >= report.sqnr_db_without_bias_correction > 30
    assert len(report.layers) == 45
    assert sum(layer.share for layer in report.layers) == pytest.approx(1.0)
    with Image.open(output / "sensitivity.png") as picture:
        assert picture.size[0] > 1000

    answers = {}
    for backend in ("onnxruntime", "openvino"):
        plan = tmp_path / backend
        assert run_app(["build", str(output), "-o", str(plan), "--backend", backend]) == 0
        assert "no faster than float32" not in capsys.readouterr().err
        answers[backend] = evaluate(plan, capsys)
        assert float(str(before["top1"])) - float(str(answers[backend]["top1"])) <= 0.5
    ours, theirs = (np.array(answers[backend]["predictions"]) for backend in answers)
    # Each rounds a tie to the step above or below by its own sums: at most two images in a hundred may turn.
    assert (ours == theirs).mean() >= 0.98


def test_noise_to_calibrate_on_does_not_pass(
    digits_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faint noise leaves no range for a digit; held-out digits judge."""
    random, digits = np.random.default_rng(0), load_digits()
    for label in range(10):
        for part in ("train", "val"):
            (tmp_path / "data" / part / str(label)).mkdir(parents=True)
        for number in range(2):
            noise = Image.fromarray(random.integers(112, 144, (8, 8, 3)).astype(np.uint8))
            noise.save(tmp_path / "data" / "train" / str(label) / f"{number}.png")
    for index, label in enumerate(digits.test.labels[:60]):
        digits.test.image(index).save(tmp_path / "data" / "val" / str(label) / f"{index}.png")
    output = tmp_path / "out" / "int8"
    arguments = ["quantize", str(digits_bundle), "--data", str(tmp_path / "data"), "-o", str(output)]
    assert run_app([*arguments, "--max-float-share", "0", "--method", "min-max"]) == 1
    message = capsys.readouterr().err
    assert "at most 0.5 may be lost" in message
    assert "nothing was written" in message
    assert float(message.split("top-1 accuracy drops by ")[1].split(" points")[0]) > 20
    assert not output.parent.exists() or list(output.parent.iterdir()) == []
