"""Random images that a network tells apart, for comparisons where no real ones are needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.schemas import Preprocessing

_PATCHES = 4


def random_images(preprocessing: Preprocessing, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Draw normalised images, float32 `[count, C, H, W]`; the same seed gives the same images.

    Half of each pixel is noise and half the colour of its patch of a coarse grid. Of pure noise a global average pool
    would leave next to nothing, and every image would give the same logits.
    """
    random = np.random.default_rng(seed)
    channels, height, width = preprocessing.input_size
    patches = random.random((count, channels, _PATCHES, _PATCHES), dtype=np.float32)
    rows, columns = (np.arange(extent) * _PATCHES // extent for extent in (height, width))
    noise = random.random((count, channels, height, width), dtype=np.float32)
    pixels = (patches[:, :, rows][:, :, :, columns] + noise) / 2
    mean, std = (np.resize(values, channels) for values in (preprocessing.mean, preprocessing.std))
    normalised: NDArray[np.float32] = ((pixels - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    return normalised
