"""Images to compare on: real ones where there are any, and random ones always."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.golden import ImageSet, ImageSource
from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.checks.sketch import tensor_sha256
from parnet_deploy.datasets.digits import digits_split
from parnet_deploy.datasets.synthetic import random_images
from parnet_deploy.errors import DataError
from parnet_deploy.runtime.preprocess import find_images, load_images, preprocess

Array = NDArray[Any]


@dataclass(frozen=True)
class Images:
    """Preprocessed images `[N, C, H, W]` float32 and where they come from."""

    name: str
    source: ImageSource
    pixels: Array
    seed: int | None = None

    def record(self) -> ImageSet:
        """Describe the images so that they can be had again, or told from others."""
        return ImageSet(
            name=self.name,
            source=self.source,
            seed=self.seed,
            count=len(self.pixels),
            sha256=tensor_sha256(self.pixels),
        )


def comparison_images(
    preprocessing: Preprocessing, data: str | None, count: int, seed: int = 0, *, with_photographs: bool = True
) -> tuple[Images, ...]:
    """Return the sets of images to compare on.

    Real images come from `data` (`digits`, an image or a folder; the first `count` of it), or else from the photographs
    that scikit-learn carries, where it is installed.
    """
    sets = []
    if data is not None:
        sets.append(_real_images(preprocessing, data, count))
    elif with_photographs and importlib.util.find_spec("sklearn") is not None:
        photographs = _photographs(preprocessing)
        sets.append(Images("real (photographs of scikit-learn)", "photographs", photographs))
    return (*sets, Images("random", "synthetic", random_images(preprocessing, count, seed), seed))


def random_beside_real(sets: Sequence[ImageSet]) -> frozenset[str]:
    """Return the names of random sets if there are real ones beside them.

    Noise has no class: a sound quantised network may answer it otherwise, one lone image in twenty. So classes are
    judged on real images where there are any.
    """
    random = frozenset(entry.name for entry in sets if entry.source == "synthetic")
    return random if len(random) < len(sets) else frozenset()


def _real_images(preprocessing: Preprocessing, data: str, count: int) -> Images:
    if data == "digits":
        pixels = np.stack([preprocess(image, preprocessing) for image in digits_split("test")[0][:count]])
        return Images("real (held-out digits)", "digits", pixels)
    pixels = load_images(find_images(Path(data))[:count], preprocessing)
    return Images(f"real ({Path(data).name})", "files", pixels)


def _photographs(preprocessing: Preprocessing) -> Array:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    return np.stack([preprocess(Image.fromarray(pixels), preprocessing) for pixels in photographs])


def same_images(record: ImageSet, preprocessing: Preprocessing, data: str | None) -> Array:
    """Return the images of a golden file again; those of files from `data`.

    Raises:
        DataError: there is no telling where the images are, or they are not the same.
    """
    if record.source == "files" and data is None:
        raise DataError(f"the golden file was written for {record.name}", remedy="pass the same images with --data")
    pixels: Array
    if record.source == "synthetic":
        pixels = random_images(preprocessing, record.count, record.seed or 0)
    elif record.source == "photographs":
        pixels = _photographs(preprocessing)
    else:
        pixels = _real_images(preprocessing, data or "digits", record.count).pixels
    if tensor_sha256(pixels) != record.sha256:
        raise DataError(
            f"the images are not those that the golden file was written for: {record.name}",
            where=data if record.source == "files" else None,
            remedy="pass the same images, or write the golden file anew",
        )
    return pixels
