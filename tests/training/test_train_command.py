"""`parnet-deploy train` as a user runs it, on a folder of generated pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from parnet_deploy.artifacts.folders import open_card
from parnet_deploy.cli.main import run_app
from parnet_deploy.models.checkpoints import load_checkpoint
from parnet_deploy.training import trainer

FAST = ("--model", "parnet_nano", "--resolution", "8", "--batch-size", "8", "--epochs", "2", "--workers", "0")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes, dark and bright: 16 pictures to train on, 8 held out."""
    root = tmp_path_factory.mktemp("data") / "brightness"
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 4)):
        for label, level in (("bright", 200), ("dark", 20)):
            (root / part / label).mkdir(parents=True)
            for index in range(count):
                pixels = (level + random.integers(-20, 20, (12, 10, 3))).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{index}.png")
    return root


def test_a_folder_becomes_a_checkpoint(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "net.safetensors"
    assert run_app(["train", "--data", str(pictures), "-o", str(output), *FAST, "--activation", "relu", "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["checkpoint"] == str(output)
    assert [record["epoch"] for record in result["history"]] == [1, 2]
    assert "epoch 2/2  loss" in captured.err
    card = open_card(output).manifest
    assert card.label_names == ("bright", "dark")
    assert (card.architecture, card.network.activation, card.network.num_classes) == ("parnet_nano", "relu", 2)
    assert card.preprocessing.input_size == (3, 8, 8)
    assert card.metrics == {"top1": result["best"]["top1"], "top5": 100.0}
    assert (card.origin["data"], card.origin["recipe"]["name"]) == ("brightness", "images")
    assert (tmp_path / "net.run" / "metrics.csv").is_file()
    assert load_checkpoint(output)(torch.zeros(1, 3, 8, 8)).shape == (1, 2)


def test_people_read_the_accuracy_and_the_time(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.safetensors"
    assert run_app(["train", "--data", str(pictures), "-o", str(output), *FAST]) == 0
    text = capsys.readouterr().out
    assert "parnet_nano on brightness" in text
    assert "of 8 held-out images, trained on 16 in" in text


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, measured = trainer.evaluate_model, []

    def interrupt_in_epoch_2(*arguments: Any, **options: Any) -> dict[str, float]:
        measured.append(measure(*arguments, **options))
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measured[-1]

    output = tmp_path / "net.safetensors"
    command = ["train", "--data", str(pictures), "-o", str(output), "--run-dir", str(tmp_path / "kept"), *FAST]
    monkeypatch.setattr(trainer, "evaluate_model", interrupt_in_epoch_2)
    assert run_app(command) == 130
    assert "with --resume" in capsys.readouterr().err
    assert not output.exists()
    assert [path.name for path in (tmp_path / "kept" / "state").iterdir()] == ["epoch-00001"]

    assert run_app(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert run_app([*command, "--resume"]) == 0
    assert len(measured) == 3
    assert output.exists()


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data", "missing"], ["missing: no such folder of images", "remedy:"]),
        (["--data", "{pictures}", "--resolution", "30"], ["30x30", "multiples of 4"]),
        (["--data", "{pictures}", "--model", "resnet50"], ["no model 'resnet50'", "parnet_nano"]),
        (["--data", "{pictures}", "--recipe", "none"], ["no recipe 'none'", "one of: digits, images"]),
        (["--data", "{pictures}", "--lr", "0"], ["field 'lr'", "greater than 0"]),
        (["--data", "{pictures}", "--resume"], ["no training run to resume"]),
    ],
)
def test_mistakes_are_told_in_a_line_or_two(
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    parts: list[str],
) -> None:
    filled = [argument.format(pictures=pictures) for argument in arguments]
    assert run_app(["train", "-o", str(tmp_path / "net.safetensors"), *filled]) == 2
    error = capsys.readouterr().err
    for part in parts:
        assert part in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_unless_forced(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.safetensors"
    command = ["train", "--data", str(pictures), "-o", str(output), *FAST, "--epochs", "1"]
    output.write_text("precious")
    assert run_app(command) == 2
    assert "--force" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]
    assert output.read_text() == "precious"
    assert run_app([*command, "--force"]) == 0
    assert open_card(output).manifest.label_names == ("bright", "dark")
    assert run_app([*command, "--force"]) == 0


def test_an_unreadable_picture_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / label / f"{index}.png")
    broken = tmp_path / "data" / "b" / "1.png"
    broken.write_text("no image")
    command = ["train", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "net.safetensors"), *FAST]
    assert run_app(command) == 2
    assert f"{broken}: cannot be read as an image" in capsys.readouterr().err.replace("\n", "")
    assert not (tmp_path / "net.safetensors").exists()
