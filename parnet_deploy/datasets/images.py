"""Labelled images in splits, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from parnet_deploy.errors import DataError

SplitName = Literal["train", "test"]

# What Pillow raises on files that are no image, cut short, corrupt or absurdly large.
_DECODING_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


@dataclass(frozen=True)
class ImageSplit:
    """Images, in memory or as files, with one label each: indices into the data set's label names."""

    sources: Sequence[Image.Image | Path]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Image.Image:
        """Return an image as 8-bit RGB; raise `DataError` naming the file if it cannot be decoded."""
        source = self.sources[index]
        return source if isinstance(source, Image.Image) else read_image(source)


@dataclass(frozen=True)
class ImageDataset:
    """A training split and a held-out split over the same classes; `name` holds no path."""

    name: str
    label_names: tuple[str, ...]
    train: ImageSplit
    test: ImageSplit

    def split(self, name: SplitName) -> ImageSplit:
        """Return a split by name."""
        return self.train if name == "train" else self.test


def read_image(path: Path) -> Image.Image:
    """Decode a file to 8-bit RGB; raise `DataError` naming the file if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except _DECODING_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"cannot be read as an image ({reason})", where=path, remedy="remove or replace it") from error


def split_stratified(labels: Sequence[int], held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Split indices into training and held-out ones, class by class, each part in ascending order.

    Every class gives `held_out` of its images, rounded, and at least one. Who trains on one machine evaluates on
    another, so the draw must never change: `RandomState` is the generator whose streams numpy has frozen.
    """
    random = np.random.RandomState(seed)
    train: list[int] = []
    test: list[int] = []
    members_of: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members_of.setdefault(label, []).append(index)
    for _, members in sorted(members_of.items()):
        order = random.permutation(len(members))
        count = max(1, round(held_out * len(members)))
        test += [members[position] for position in order[:count]]
        train += [members[position] for position in order[count:]]
    return sorted(train), sorted(test)
