"""scikit-learn's bundled handwritten digits: 1,797 real images of 8x8, no download.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from parnet_deploy.datasets.images import ImageDataset, ImageSplit, SplitName, split_stratified
from parnet_deploy.errors import MissingDependencyError

HELD_OUT = 0.2
_SPLIT_SEED = 0
_WHITE = 16  # The data set counts set pixels of 4x4 cells: 0 to 16.


def load_digits() -> ImageDataset:
    """Return the digits as 8x8 RGB images with a fixed stratified split: 1,438 for training, 359 held out.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load_bundled
    except ImportError as error:
        raise MissingDependencyError(
            "the digits data set comes with scikit-learn, which is not installed",
            remedy="pip install scikit-learn (the extra parnet-deploy[author] includes it)",
        ) from error
    bundled = load_bundled()
    pixels = np.rint(bundled.images * (255 / _WHITE)).astype(np.uint8)
    images = [Image.fromarray(image).convert("RGB") for image in pixels]
    labels = [int(label) for label in bundled.target]
    train, test = split_stratified(labels, HELD_OUT, _SPLIT_SEED)
    return ImageDataset(
        "digits",
        tuple(str(digit) for digit in range(10)),
        *(ImageSplit([images[i] for i in part], tuple(labels[i] for i in part)) for part in (train, test)),
    )


def digits_split(name: SplitName) -> tuple[list[Image.Image], list[int]]:
    """Return the RGB images and labels of one split of the digits."""
    split = load_digits().split(name)
    return [split.image(index) for index in range(len(split))], list(split.labels)
