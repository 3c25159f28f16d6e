"""The three sets of images share none, are drawn the same on every run, and say what they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.errors import DataError
from parnet_deploy.quantize.data import QuantizationData, load_data

PREPROCESSING = Preprocessing(input_size=(3, 8, 8), crop_pct=1.0)


def bundle_of(labels: tuple[str, ...]) -> Any:
    network = SimpleNamespace(num_classes=len(labels))
    return SimpleNamespace(preprocessing=PREPROCESSING, label_names=labels, network=network)


DIGITS = bundle_of(tuple(str(digit) for digit in range(10)))


def write_images(folder: Path, count: int, first: int = 0) -> None:
    """Write images of one colour each, none twice."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(folder / f"{number:04d}.png")


def colours(data: QuantizationData) -> list[set[bytes]]:
    parts = (data.calibration, data.selection, data.judged)
    return [{image.tobytes() for image in part.load()} for part in parts]


def test_digits_calibrate_on_what_is_trained_on() -> None:
    data = load_data("digits", DIGITS, 256)
    assert [len(part) for part in (data.calibration, data.selection, data.judged)] == [256, 64, 359]
    assert not set(data.calibration.indices) & set(data.selection.indices)
    assert data.calibration.images is data.selection.images
    assert data.judged.indices == tuple(range(359))
    assert data.judged.labels is not None
    assert set(data.judged.labels) == set(range(10))
    assert data.calibration.source == "256 of 1,438 training images of digits, drawn"
    assert data.judged.source == "all 359 held-out images of digits"
    assert data.calibration.load().shape == (256, 3, 8, 8)


def test_the_draw_and_its_hash_never_change() -> None:
    first, again, other = (load_data("digits", DIGITS, count) for count in (32, 32, 33))
    assert first.calibration.indices == again.calibration.indices
    assert first.calibration.describe() == again.calibration.describe()
    assert first.calibration.describe().sha256 != other.calibration.describe().sha256
    assert first.judged.describe().sha256 == other.judged.describe().sha256


def test_labels_are_the_networks_classes(tmp_path: Path) -> None:
    for name, first in (("cat", 0), ("dog", 10)):
        write_images(tmp_path / "train" / name, 8, first)
        write_images(tmp_path / "val" / name, 2, 100 + first)
    data = load_data(str(tmp_path), bundle_of(("dog", "bird", "cat")), 256)
    assert data.judged.labels == (2, 2, 0, 0)
    # Sixteen images train: four of them choose, the rest calibrate.
    assert [len(part) for part in (data.calibration, data.selection, data.judged)] == [12, 4, 4]
    sets = colours(data)
    assert len(set.union(*sets)) == 20
    with pytest.raises(DataError, match="no class 'cat'"):
        load_data(str(tmp_path), bundle_of(("dog", "bird")), 256)


def test_half_of_a_folder_without_labels_judges(tmp_path: Path) -> None:
    write_images(tmp_path, 30)
    data = load_data(str(tmp_path), DIGITS, 8)
    assert [len(part) for part in (data.calibration, data.selection, data.judged)] == [8, 2, 15]
    assert data.judged.labels is None
    assert len(set.union(*colours(data))) == 25
    assert "30 images of" in data.judged.source


def test_too_few_images(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    with pytest.raises(DataError, match="1 images cannot be split"):
        load_data(str(tmp_path), DIGITS, 8)
    with pytest.raises(DataError, match="no such folder"):
        load_data(str(tmp_path / "absent"), DIGITS, 8)


def test_pixels_are_those_of_the_preprocessing(tmp_path: Path) -> None:
    write_images(tmp_path, 8)
    image = load_data(str(tmp_path), DIGITS, 4).calibration.load()[0]
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (PREPROCESSING.mean, PREPROCESSING.std))
    assert np.rint((image * std + mean) * 255)[2] == pytest.approx(np.full((8, 8), 7.0))
