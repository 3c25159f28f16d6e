"""Measure how far two tensors differ, and where."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.verification import Difference, Extent
from parnet_deploy.errors import InferenceError

Array = NDArray[Any]
_Floats = NDArray[np.float64]

_INFINITE = float("inf")
# Channels and images that an extent names.
_NAMED = 8


def tensor_difference(
    name: str, a: Array, b: Array, tolerance: float | None = None, absolute: float = 0.0
) -> Difference:
    """Measure the difference between two arrays `[N, ...]` in float64; not-a-number anywhere makes it infinite.

    Where the tolerance is None, only a number that is not finite fails.

    Raises:
        InferenceError: the arrays hold different counts of numbers.
    """
    if a.shape[0] != b.shape[0] or a[0].size != b[0].size:
        raise InferenceError(f"{name}: {a[0].size} numbers against {b[0].size}", remedy="compare like with like")
    shape = a.shape
    a, b = a.astype(np.float64).reshape(len(a), -1), b.astype(np.float64).reshape(len(b), -1)
    is_finite = np.isfinite(a) & np.isfinite(b)
    if not is_finite.all():
        return Difference(
            name=name,
            max_abs=_INFINITE,
            relative=_INFINITE,
            norm=_INFINITE,
            cosine=None,
            tolerance=tolerance,
            passed=False,
            extent=extent_of(~is_finite.reshape(shape)),
        )
    apart = np.abs(a - b)
    max_abs = float(apart.max())
    relative = ratio(max_abs, float(np.abs(a).max()))
    norm = max(ratio(*pair) for pair in zip(np.linalg.norm(apart, axis=1), np.linalg.norm(a, axis=1), strict=True))
    size = max(relative, norm)
    return Difference(
        name=name,
        max_abs=max_abs,
        relative=relative,
        norm=norm,
        cosine=_least_cosine(a, b),
        tolerance=tolerance,
        passed=tolerance is None or size <= tolerance or max_abs <= absolute,
        extent=extent_of(((apart > max_abs / 10) & (apart > 0)).reshape(shape)),
    )


def ratio(error: float, scale: float) -> float:
    """Return `error / scale`; where there is no scale, the error itself."""
    return float(error / scale) if scale else float(error)


def _least_cosine(a: _Floats, b: _Floats) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), norms, out=np.ones_like(norms), where=norms > 0)
    return float(cosines.min())


def extent_of(mask: NDArray[np.bool_]) -> Extent | None:
    """Describe where a mask `[N, C, ..]` is set; None if it is nowhere."""
    if not mask.any():
        return None
    images = np.flatnonzero(mask.any(axis=tuple(range(1, mask.ndim))))
    channels = np.flatnonzero(mask.any(axis=(0, *range(2, mask.ndim))))
    has_inside = mask.ndim == 4 and min(mask.shape[2:]) > 2
    return Extent(
        share=float(mask.mean()),
        images=tuple(images[:_NAMED].tolist()),
        image_count=len(images),
        num_images=mask.shape[0],
        channels=tuple(channels[:_NAMED].tolist()),
        channel_count=len(channels),
        num_channels=mask.shape[1],
        only_border=has_inside and not mask[..., 1:-1, 1:-1].any(),
    )
