"""Split a data set for quantising: images that set ranges, others that choose, and others still that judge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parnet_deploy.artifacts.quantization import ImageSet
from parnet_deploy.artifacts.schemas import Bundle, Preprocessing
from parnet_deploy.checks.evaluate import map_labels
from parnet_deploy.datasets.images import ImageSplit
from parnet_deploy.datasets.sources import load_dataset
from parnet_deploy.errors import DataError
from parnet_deploy.quantize.grids import Array
from parnet_deploy.runtime.preprocess import IMAGE_SUFFIXES, find_images, preprocess

_SEED = 0
# Of the images that do not judge: for each that chooses, how many calibrate.
_CALIBRATE_PER_CHOICE = 4


@dataclass(frozen=True)
class Part:
    """Some images of a data set, in order; `labels` are the network's classes, or None where there are no labels."""

    source: str
    images: ImageSplit
    indices: tuple[int, ...]
    labels: tuple[int, ...] | None
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, size: int) -> Iterator[Array]:
        """Yield preprocessed images, float32 [N, C, H, W] with N up to `size`."""
        for start in range(0, len(self.indices), size):
            chunk = self.indices[start : start + size]
            yield np.stack([preprocess(self.images.image(index), self.preprocessing) for index in chunk])

    def load(self) -> Array:
        """Return all images, preprocessed."""
        return np.concatenate(list(self.batches(len(self))))

    def describe(self) -> ImageSet:
        """Return how many images these are, and the hash of their pixels."""
        digest = hashlib.sha256()
        for batch in self.batches(16):
            digest.update(batch.tobytes())
        return ImageSet(source=self.source, count=len(self), sha256=digest.hexdigest())


@dataclass(frozen=True)
class QuantizationData:
    """Three sets of images that share none."""

    calibration: Part
    selection: Part
    judged: Part


def load_data(spec: str, bundle: Bundle, count: int) -> QuantizationData:
    """Split `digits`, an image folder with labels, or a folder of images without any.

    `count` images, or fewer where there are not so many, set the ranges, and a quarter as many choose. Of labelled
    images both come from what `train` trains on, and all that it leaves out judge. Of others half of the folder judges.

    Raises:
        DataError: no such data set or folder, labels that the network does not have, or too few images.
    """
    folder = Path(spec)
    if spec != "digits" and folder.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir()):
        return _split_unlabelled(folder, bundle.preprocessing, count)
    dataset = load_dataset(spec)
    classes = map_labels(dataset.label_names, bundle.label_names, bundle.network.num_classes)
    calibration, selection = _draw(range(len(dataset.train)), count)
    held_out = tuple(range(len(dataset.test)))
    origin = f"of {len(dataset.train):,} training images of {dataset.name}"

    def part(source: str, split: ImageSplit, indices: tuple[int, ...]) -> Part:
        labels = tuple(classes[split.labels[index]] for index in indices)
        return Part(source, split, indices, labels, bundle.preprocessing)

    return QuantizationData(
        part(f"{len(calibration)} {origin}, drawn", dataset.train, calibration),
        part(f"{len(selection)} others {origin}, drawn", dataset.train, selection),
        part(f"all {len(held_out):,} held-out images of {dataset.name}", dataset.test, held_out),
    )


def _split_unlabelled(folder: Path, preprocessing: Preprocessing, count: int) -> QuantizationData:
    paths = find_images(folder)
    images = ImageSplit(paths, (0,) * len(paths))
    order = [int(index) for index in np.random.RandomState(_SEED).permutation(len(paths))]
    judged = tuple(sorted(order[: len(order) // 2]))
    calibration, selection = _draw(sorted(order[len(order) // 2 :]), count)
    name = folder.resolve().name

    def part(what: str, indices: tuple[int, ...]) -> Part:
        return Part(f"{len(indices)} of {len(paths):,} images of {name}, {what}", images, indices, None, preprocessing)

    return QuantizationData(
        part("drawn", calibration),
        part("others, drawn", selection),
        part("the half not calibrated on", judged),
    )


def _draw(indices: range | list[int], count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw images to calibrate on and others to choose by; the same on every machine (see `split_stratified`)."""
    order = [indices[int(position)] for position in np.random.RandomState(_SEED).permutation(len(indices))]
    choosing = max(1, min(count, len(order)) // _CALIBRATE_PER_CHOICE)
    calibrating = min(count, len(order) - choosing)
    if calibrating < 1:
        raise DataError(
            f"{len(order)} images cannot be split into some to calibrate on and others to choose by",
            remedy="a few hundred images are usual",
        )
    return tuple(sorted(order[:calibrating])), tuple(sorted(order[calibrating : calibrating + choosing]))
