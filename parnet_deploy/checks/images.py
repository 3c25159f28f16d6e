"""Images to compare on: real ones where there are any, and random ones always."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.datasets.digits import digits_split
from parnet_deploy.datasets.synthetic import random_images
from parnet_deploy.runtime.preprocess import find_images, load_images, preprocess

Array = NDArray[Any]


def comparison_images(preprocessing: Preprocessing, data: str | None, count: int, seed: int = 0) -> dict[str, Array]:
    """Return the sets of images to compare on, by name.

    Real images come from `data` (`digits`, an image or a folder; the first `count` of it), or else from the photographs
    that scikit-learn carries, where it is installed.
    """
    sets: dict[str, Array] = {}
    if data == "digits":
        sets["real (held-out digits)"] = np.stack(
            [preprocess(i, preprocessing) for i in digits_split("test")[0][:count]]
        )
    elif data is not None:
        sets[f"real ({Path(data).name})"] = load_images(find_images(Path(data))[:count], preprocessing)
    elif importlib.util.find_spec("sklearn") is not None:
        sets["real (photographs of scikit-learn)"] = _photographs(preprocessing)
    sets["random"] = random_images(preprocessing, count, seed)
    return sets


def _photographs(preprocessing: Preprocessing) -> Array:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    return np.stack([preprocess(Image.fromarray(pixels), preprocessing) for pixels in photographs])
