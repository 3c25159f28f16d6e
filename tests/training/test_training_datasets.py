"""What the network is fed: transforms compared with numbers worked out by hand, and loaders."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.datasets.images import ImageDataset, ImageSplit
from parnet_deploy.errors import DataError
from parnet_deploy.training.datasets import (
    WORKER_TIMEOUT_S,
    batches_of,
    create_loaders,
    evaluation_transform,
    training_transform,
)
from parnet_deploy.training.recipe import PRESETS

PREPROCESSING = Preprocessing(input_size=(3, 32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.5), crop_pct=1.0)
BLACK = (-2.5, -1.6, -0.6)  # (0 - mean) / std
WHITE = (2.5, 2.4, 1.4)  # (1 - mean) / std


def dot(row: int, column: int, side: int = 32) -> Image.Image:
    """Return a black image with one white pixel."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[row, column] = 255
    return Image.fromarray(pixels)


def place_of_dot(image: Tensor) -> tuple[int, int]:
    """Return where the only white pixel is."""
    found = (image[0] > 0).nonzero().tolist()
    assert len(found) == 1
    return found[0][0], found[0][1]


def test_evaluation_normalises_each_channel() -> None:
    image = evaluation_transform(PREPROCESSING)(dot(3, 5))
    assert image.shape == (3, 32, 32)
    assert image.dtype == torch.float32
    torch.testing.assert_close(image[:, 3, 5], torch.tensor(WHITE))
    torch.testing.assert_close(image[:, 0, 0], torch.tensor(BLACK))
    assert place_of_dot(image) == (3, 5)


def test_evaluation_resizes_the_short_side_and_crops_the_centre() -> None:
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 255
    image = evaluation_transform(PREPROCESSING)(Image.fromarray(pixels))
    # 8x16 becomes 32x64; the centre crop is the white part, but for the interpolated columns at its edges.
    assert image.shape == (3, 32, 32)
    torch.testing.assert_close(image[:, :, 2:-2], torch.tensor(WHITE)[:, None, None].expand(3, 32, 28))


def test_shifts_reach_an_eighth_of_the_side_in_all_directions_and_fill_with_black() -> None:
    transform = training_transform(PREPROCESSING, PRESETS["digits"])
    torch.manual_seed(0)
    moves = set()
    for _ in range(400):
        image = transform(dot(12, 20))
        row, column = place_of_dot(image)
        moves.add((row - 12, column - 20))
        torch.testing.assert_close(image.amin((1, 2)), torch.tensor(BLACK))
    assert {row for row, _ in moves} == {column for _, column in moves} == set(range(-4, 5))


def test_flips_mirror_left_and_right() -> None:
    recipe = PRESETS["digits"].replace(shift=0.0, hflip=1.0)
    assert place_of_dot(training_transform(PREPROCESSING, recipe)(dot(12, 20))) == (12, 11)


def test_the_crop_augmentation_zooms_in_and_makes_the_input_size() -> None:
    transform = training_transform(PREPROCESSING, PRESETS["images"].replace(color_jitter=0.0, hflip=0.0))
    gradient = Image.fromarray(np.tile(np.linspace(0, 255, 100, dtype=np.uint8)[None, :, None], (80, 1, 3)))
    widths = []
    for _ in range(20):
        image = transform(gradient)
        assert image.shape == (3, 32, 32)
        widths.append(float(image[0].max() - image[0].min()) / 5)  # share of the gradient that was seen
    assert 0.25 < min(widths) < 0.8 < max(widths) <= 1


def test_loaders_shuffle_whole_training_batches_and_keep_the_held_out_order(data: ImageDataset) -> None:
    train, test = create_loaders(data, PREPROCESSING, PRESETS["digits"].replace(batch_size=16))
    torch.manual_seed(0)
    assert [len(labels) for _, labels in batches_of(train)] == [16, 16, 16]  # of 56
    images, labels = next(batches_of(test))
    assert tuple(labels.tolist()) == data.test.labels
    torch.testing.assert_close(images[7], evaluation_transform(PREPROCESSING)(data.test.image(7)))


def test_a_batch_is_never_larger_than_the_split(data: ImageDataset) -> None:
    train, _ = create_loaders(data, PREPROCESSING, PRESETS["digits"].replace(batch_size=64))
    assert [len(labels) for _, labels in batches_of(train)] == [56]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on fork
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("pick", [lambda loaders: loaders[0], lambda loaders: loaders[1]])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: int, pick: Callable[[tuple], object]) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    split = ImageSplit([dot(1, 1), broken], (0, 1))
    data = ImageDataset("broken", ("a", "b"), split, split)
    loader = pick(create_loaders(data, PREPROCESSING, PRESETS["digits"].replace(workers=workers)))
    with pytest.raises(DataError, match="not an image") as caught:
        list(batches_of(loader))  # type: ignore[arg-type]
    assert caught.value.where == str(broken)
    assert caught.value.remedy


class Unreadable(Dataset[int]):
    """Ends the process that reads it, or keeps it waiting for longer than anybody does."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _index: int) -> int:
        if not self.seconds:
            os._exit(1)
        time.sleep(self.seconds)
        return 0


@pytest.mark.parametrize("seconds", [0.0, 600.0])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on fork
def test_lost_workers_are_one_clear_error(seconds: float) -> None:
    loader = DataLoader(Unreadable(seconds), num_workers=1, timeout=5.0)
    with pytest.raises(DataError, match=r"the processes that prepare images gave none \(DataLoader") as lost:
        next(batches_of(loader))
    assert lost.value.remedy is not None
    assert "--workers 0" in lost.value.remedy


def test_workers_that_are_silent_are_not_waited_for_for_ever(data: ImageDataset) -> None:
    recipe = PRESETS["digits"]
    for workers, timeout in ((0, 0.0), (2, WORKER_TIMEOUT_S)):
        loaders = create_loaders(data, PREPROCESSING, recipe.replace(workers=workers))
        assert [loader.timeout for loader in loaders] == [timeout, timeout]
