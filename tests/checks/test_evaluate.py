"""Accuracy: counted by hand, labels matched by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.checks.evaluate import evaluate, load_labelled, map_labels
from parnet_deploy.errors import DataError, InferenceError


class BrightnessPredictor:
    """Ranks classes by how near 20 * class is to the image's brightness."""

    kind, form, precision = "plan", "fused", "fp32"
    preprocessing = Preprocessing(input_size=(3, 8, 8), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0)
    num_classes = 6

    def __init__(self, label_names: tuple[str, ...] | None) -> None:
        self.label_names = label_names

    def predict(self, images: np.ndarray) -> np.ndarray:
        brightness = images.mean(axis=(1, 2, 3)) * 255
        return -np.abs(brightness[:, None] - 20.0 * np.arange(6)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # Class name -> brightness of its images; "c" holds one image that looks like "f", the least likely of six for it.
    for name, values in {"a": [0, 1], "b": [20, 21], "c": [40, 100], "d": [60], "e": [80], "f": [100]}.items():
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        (tmp_path / "data" / "train" / name).mkdir(parents=True)
        for index, value in enumerate(values):
            Image.new("RGB", (10, 9), (value,) * 3).save(tmp_path / "data" / "val" / name / f"{index}.png")
            Image.new("RGB", (10, 9), (value,) * 3).save(tmp_path / "data" / "train" / name / f"{index}.png")
    return tmp_path / "data"


def test_accuracy_by_hand(folder: Path) -> None:
    labelled = load_labelled(str(folder))
    seen: list[int] = []
    found = evaluate(BrightnessPredictor(None), labelled, batch_size=4, progress=seen.append)
    assert found.count == 9
    assert found.predictions == (0, 0, 1, 1, 2, 5, 3, 4, 5)
    assert found.top1 == pytest.approx(100 * 8 / 9)
    assert found.top5 == pytest.approx(100.0)
    assert seen == [4, 4, 1]


def test_answers_that_are_not_finite_are_refused(folder: Path) -> None:
    class Broken(BrightnessPredictor):
        def predict(self, images: np.ndarray) -> np.ndarray:
            logits = super().predict(images)
            logits[1:3, 2] = np.nan
            return logits

    with pytest.raises(InferenceError, match="NaN or infinite logits for 2 of 4 images"):
        evaluate(Broken(None), load_labelled(str(folder)), batch_size=4)


def test_labels_are_matched_by_name(folder: Path) -> None:
    labelled = load_labelled(str(folder))
    reversed_names = evaluate(BrightnessPredictor(tuple("fedcba")), labelled)
    # Class i is now called "fedcba"[i]: no image's nearest class has its name, and for the two darkest and the
    # brightest the name belongs to the farthest.
    assert reversed_names.top1 == 0.0
    assert reversed_names.top5 == pytest.approx(100 * 6 / 9)
    with pytest.raises(DataError, match="no class 'f'"):
        evaluate(BrightnessPredictor(tuple("abcdeg")), labelled)


def test_map_labels() -> None:
    assert map_labels(("b", "a"), ("a", "b", "c"), 3) == (1, 0)
    assert map_labels(("x", "y"), None, 2) == (0, 1)
    with pytest.raises(DataError, match="2 classes of images"):
        map_labels(("x", "y"), None, 3)


def test_a_plain_folder_gives_all_or_the_held_out(folder: Path) -> None:
    plain = folder / "val"
    for name in "def":
        Image.new("RGB", (9, 9)).save(plain / name / "second.png")
    assert len(load_labelled(str(plain))) == 12
    assert len(load_labelled(str(plain), held_out=True)) == 6


def test_digits_give_the_held_out_split() -> None:
    labelled = load_labelled("digits")
    assert len(labelled) == 359
    assert labelled.label_names == tuple("0123456789")
