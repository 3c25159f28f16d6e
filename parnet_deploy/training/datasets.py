"""Feed data sets to a network: timm's transforms and torch's loaders."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.datasets.images import ImageDataset, ImageSplit
from parnet_deploy.errors import DataError
from parnet_deploy.training.recipe import Recipe

Transform: TypeAlias = Callable[[Image.Image], Tensor]
Sample: TypeAlias = tuple[Tensor, int]
Batch: TypeAlias = tuple[Tensor, Tensor]

EVALUATION_BATCH_SIZE = 128

# A worker that cannot hand over what it prepared, shared memory being full or forbidden, is silent for ever.
WORKER_TIMEOUT_S = 120.0


class TransformedImages(Dataset[Sample | DataError]):
    """A split as torch samples: the transformed image and its label.

    An image that cannot be decoded is returned as its error: raised here, it would lose its form on the way out of a
    worker process. `batches_of` raises it.
    """

    def __init__(self, split: ImageSplit, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Sample | DataError:
        try:
            return self.transform(self.split.image(index)), self.split.labels[index]
        except DataError as error:
            return error


def evaluation_transform(preprocessing: Preprocessing) -> Transform:
    """Return timm's evaluation transform: resize, centre crop, normalise."""
    return create_transform(  # type: ignore[no-any-return]
        preprocessing.input_size,
        is_training=False,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
    )


def training_transform(preprocessing: Preprocessing, recipe: Recipe) -> Transform:
    """Return the recipe's random transform; it draws from torch's and Python's global generators."""
    if recipe.augmentation == "crop":
        return create_transform(  # type: ignore[no-any-return]
            preprocessing.input_size,
            is_training=True,
            scale=(recipe.min_scale, 1.0),
            hflip=recipe.hflip,
            color_jitter=recipe.color_jitter or None,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
    height, width = preprocessing.input_size[1:]
    resize, crop, *to_tensor = evaluation_transform(preprocessing).transforms  # type: ignore[attr-defined]
    padding = [round(recipe.shift * width), round(recipe.shift * height)]
    moved = transforms.RandomCrop((height, width), padding)
    flipped = transforms.RandomHorizontalFlip(recipe.hflip)
    return transforms.Compose([resize, crop, moved, flipped, *to_tensor])  # type: ignore[no-any-return]


def create_loaders(
    data: ImageDataset, preprocessing: Preprocessing, recipe: Recipe
) -> tuple[DataLoader[Sample | DataError], DataLoader[Sample | DataError]]:
    """Return loaders of the training split (shuffled, whole batches only) and the held-out split (in order)."""
    train = TransformedImages(data.train, training_transform(preprocessing, recipe))
    test = TransformedImages(data.test, evaluation_transform(preprocessing))
    load = partial(
        DataLoader[Sample | DataError],
        num_workers=recipe.workers,
        timeout=WORKER_TIMEOUT_S if recipe.workers else 0,
        collate_fn=_collate,
        worker_init_fn=_silence,
    )
    return (
        load(train, min(recipe.batch_size, len(train)), shuffle=True, drop_last=True),
        load(test, EVALUATION_BATCH_SIZE),
    )


def _silence(_worker: int) -> None:
    """Let a worker print nothing: it hands errors over, and the process that waits for it names what it cannot."""
    sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _collate(samples: list[Sample | DataError]) -> Batch | DataError:
    """Stack samples to `[N, 3, H, W]` and int64 labels `[N]`, unless one of them is an error."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        good.append(sample)
    return torch.stack([image for image, _ in good]), torch.tensor([label for _, label in good])


def batches_of(loader: Iterable[Batch | DataError]) -> Iterator[Batch]:
    """Yield a loader's batches; raise the `DataError` of an image that could not be decoded, or of lost workers."""
    batches = iter(loader)
    while (batch := _next_of(batches)) is not None:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _next_of(batches: Iterator[Batch | DataError]) -> Batch | DataError | None:
    try:
        return next(batches, None)
    except RuntimeError as error:
        # torch's own words for workers that ended, or that gave nothing in time.
        if not str(error).startswith("DataLoader"):
            raise
        raise DataError(
            f"the processes that prepare images gave none ({error})",
            remedy="prepare them in this one with --workers 0, or allow more shared memory (docker run --shm-size)",
        ) from error
