"""The numbers that a quantised tensor can hold, and rounding to them as ONNX's QuantizeLinear does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FloatType = type[np.float32] | type[np.float16]


@dataclass(frozen=True)
class Grid:
    """Values q from `low` to `high` in steps of one (integers), or in float8's own steps.

    A tensor's number is `scale * (q - zero_point)`; a symmetric grid has zero point 0. Symmetric integers leave out the
    lowest one, so that the negative of a number can be held too.
    """

    dtype: np.dtype[Any]
    low: int
    high: int
    is_symmetric: bool

    @property
    def is_integer(self) -> bool:
        """Whether the steps are equal."""
        return bool(np.issubdtype(self.dtype, np.integer))


UINT8 = Grid(np.dtype(np.uint8), 0, 255, is_symmetric=False)
INT8 = Grid(np.dtype(np.int8), -127, 127, is_symmetric=True)
# The sum of two products with unsigned 8 bits fits into 16: 2 * 255 * 63 = 32130.
INT7 = Grid(np.dtype(np.int8), -63, 63, is_symmetric=True)
# E4M3FN: 4 bits of exponent, 3 of mantissa, no infinity (Micikevicius et al. 2022).
FLOAT8 = Grid(np.dtype(ml_dtypes.float8_e4m3fn), -448, 448, is_symmetric=True)


@dataclass(frozen=True)
class Steps:
    """Scale and zero point of a tensor; the scale of weights has one entry per output channel."""

    scale: Array
    zero_point: int = 0


def steps_for(low: float, high: float, grid: Grid, float_type: FloatType = np.float32) -> Steps:
    """Return the steps of the grid that spans `low` to `high`, zero included exactly.

    The scale is a number of `float_type`, so that what is stored in it is what was quantised with.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.is_symmetric:
        return Steps(_usable(max(-low, high) / grid.high, float_type))
    scale = _usable((high - low) / (grid.high - grid.low), float_type)
    zero_point = grid.low - round(low / float(scale))
    return Steps(scale, int(np.clip(zero_point, grid.low, grid.high)))


def weight_steps(weight: Array, grid: Grid, float_type: FloatType = np.float32) -> Steps:
    """Return symmetric steps for each output channel, axis 0: its largest absolute value is the grid's largest."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    return Steps(_usable(largest / grid.high, float_type))


def _usable(scale: Any, float_type: FloatType) -> Array:
    """Round a scale to its type, but to no less than the type holds well; a tensor of zeros is held by any scale."""
    least = 16 * float(np.finfo(float_type).smallest_subnormal) if float_type is np.float16 else 1e-30
    rounded = np.asarray(scale, np.float64)
    return np.where(rounded > 0, np.maximum(rounded, least), 1.0).astype(float_type)


def to_grid(values: Array, steps: Steps, grid: Grid) -> Array:
    """Quantise, per tensor or along axis 0: to nearest, ties to even, saturated, in float32 as ONNX Runtime does."""
    scale = _along_channels(steps.scale.astype(np.float32), values.ndim)
    scaled = values.astype(np.float32) / scale
    if grid.is_integer:
        scaled = np.rint(scaled) + steps.zero_point
    return np.clip(scaled, grid.low, grid.high).astype(grid.dtype)


def from_grid(quantized: Array, steps: Steps) -> Array:
    """Dequantise to float32."""
    scale = _along_channels(steps.scale.astype(np.float32), quantized.ndim)
    return (quantized.astype(np.float32) - np.float32(steps.zero_point)) * scale


def _along_channels(scale: Array, ndim: int) -> Array:
    return scale.reshape(-1, *(1,) * (ndim - 1)) if scale.ndim else scale
