"""Measure the accuracy of any artefact on labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from parnet_deploy.checks.predictors import Predictor
from parnet_deploy.datasets.images import ImageSplit
from parnet_deploy.datasets.sources import load_dataset
from parnet_deploy.errors import DataError
from parnet_deploy.runtime.answers import require_finite
from parnet_deploy.runtime.preprocess import preprocess


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose label is the most likely class, or among the five most likely, in percent."""

    count: int
    top1: float
    top5: float
    predictions: tuple[int, ...]


@dataclass(frozen=True)
class LabelledImages:
    """Images and their labels, as indices of `label_names`."""

    name: str
    label_names: tuple[str, ...]
    splits: tuple[ImageSplit, ...]

    def __len__(self) -> int:
        return sum(len(split) for split in self.splits)


def load_labelled(spec: str, *, held_out: bool = False) -> LabelledImages:
    """Return the images to evaluate on.

    `digits` and folders with a train part give their held-out split. A folder of classes gives all its images, or with
    `held_out` only those that `train` would not train on.

    Raises:
        DataError: no such data set or folder, or one that cannot be read.
    """
    dataset = load_dataset(spec)
    whole = spec != "digits" and not (Path(spec) / "train").is_dir() and not held_out
    return LabelledImages(
        dataset.name, dataset.label_names, (dataset.train, dataset.test) if whole else (dataset.test,)
    )


def map_labels(data: Sequence[str], artefact: Sequence[str] | None, num_classes: int) -> tuple[int, ...]:
    """Return for each of the data's labels the class of the artefact with that name; without names, the same index.

    Raises:
        DataError: a label that the artefact does not have.
    """
    if artefact is None:
        if len(data) != num_classes:
            raise DataError(
                f"{len(data)} classes of images, but the network has {num_classes} and no label names",
                remedy="evaluate on images of the classes that it was trained on",
            )
        return tuple(range(num_classes))
    known = {name: index for index, name in enumerate(artefact)}
    for name in data:
        if name not in known:
            raise DataError(f"the network has no class {name!r}", remedy=f"its classes: {', '.join(artefact[:8])} ..")
    return tuple(known[name] for name in data)


def evaluate(
    predictor: Predictor,
    data: LabelledImages,
    *,
    batch_size: int = 16,
    progress: Callable[[int], None] = lambda _: None,
) -> Accuracy:
    """Predict every image and count; `progress` is called with the number of images done since the last call.

    Raises:
        DataError: labels that the artefact does not have, or an image that cannot be decoded.
        InferenceError: logits that are not finite.
    """
    classes = map_labels(data.label_names, predictor.label_names, predictor.num_classes)
    predictions: list[int] = []
    top1 = top5 = 0
    for split in data.splits:
        for start in range(0, len(split), batch_size):
            indices = range(start, min(start + batch_size, len(split)))
            images = np.stack([preprocess(split.image(i), predictor.preprocessing) for i in indices])
            logits = predictor.predict(images)
            require_finite(logits, data.name)
            ranked = np.argsort(-logits, axis=1, kind="stable")[:, :5]
            labels = np.array([classes[split.labels[i]] for i in indices])
            top1 += int((ranked[:, 0] == labels).sum())
            top5 += int((ranked == labels[:, None]).any(axis=1).sum())
            predictions += ranked[:, 0].tolist()
            progress(len(indices))
    count = len(predictions)
    return Accuracy(count, 100 * top1 / count, 100 * top5 / count, tuple(predictions))
