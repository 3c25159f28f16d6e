"""Turn integers that crossed a stage boundary into the numbers that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.schemas import TensorSpec


def dequantized(tensors: Mapping[str, NDArray[Any]], specs: Mapping[str, TensorSpec]) -> dict[str, NDArray[Any]]:
    """Return tensors by name, those of integers as float32: `scale * (q - zero_point)`; others as they are."""
    return {name: _dequantize(array, specs[name]) for name, array in tensors.items()}


def _dequantize(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    if spec.scale is None:
        return array
    return (array.astype(np.float32) - np.float32(spec.zero_point)) * np.float32(spec.scale)
