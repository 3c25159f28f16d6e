"""Keep a tensor as a few numbers from which its distance to another one can be told.

A sketch gives every number a fixed random sign and sums every 64th: 64 sums an image. Sketches subtract as tensors do,
and the norm of a difference's sketch is on average the norm of the difference itself (Alon, Matias and Szegedy 1996;
Charikar, Chen and Farach-Colton 2002), to some 9 % with 64 sums, whatever the difference is: one number, a channel, the
border, or two channels swapped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.files import sha256_of_bytes
from parnet_deploy.artifacts.golden import Fingerprint, PackedArray
from parnet_deploy.artifacts.verification import Difference, Extent
from parnet_deploy.checks.differences import extent_of, ratio
from parnet_deploy.errors import CheckFailedError

Array = NDArray[Any]

ANEW = "write the golden file anew: verify ARTEFACT --write-golden FILE"

SUMS = 64
_SEED = 0


def _signs(count: int) -> NDArray[np.float64]:
    """Return `count` signs, the same everywhere: NumPy keeps the raw stream of PCG64, but not what is drawn from it."""
    words = np.random.PCG64(_SEED).random_raw(-(-count // 64))
    bits = np.unpackbits(words.astype("<u8").view(np.uint8))[:count]
    return np.where(bits, -1.0, 1.0)


def sketch(tensor: Array) -> NDArray[np.float64]:
    """Return the sketches of the images of a tensor `[N, ...]`, float64 `[N, 64]`."""
    flat = tensor.astype(np.float64).reshape(len(tensor), -1)
    flat *= _signs(flat.shape[1])
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % SUMS)))
    with np.errstate(invalid="ignore"):  # infinite numbers of both signs: their sum is not a number
        sums: NDArray[np.float64] = padded.reshape(len(tensor), -1, SUMS).sum(axis=1)
    return sums


def fingerprint(tensor: Array) -> Fingerprint:
    """Describe a tensor `[N, ...]` of float16, float32 or float64."""
    values = tensor.astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = float(values.mean())
    return Fingerprint(
        dtype=tensor.dtype.name,  # type: ignore[arg-type]
        shape=tensor.shape[1:],
        sha256=tensor_sha256(tensor),
        minimum=float(values.min()),
        maximum=float(values.max()),
        mean=mean,
        norms=tuple(np.linalg.norm(values.reshape(len(values), -1), axis=1).tolist()),
        sketch=PackedArray.of(sketch(tensor)),
    )


def tensor_sha256(tensor: Array) -> str:
    """Return the hash of a tensor's numbers, little-endian in C order."""
    return sha256_of_bytes(np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).tobytes())


def sketched_difference(
    name: str, kept: Fingerprint, tensor: Array, tolerance: float | None = None, absolute: float = 0.0
) -> Difference:
    """Estimate how far a tensor `[N, ...]` is from the one that a fingerprint was taken of; 0 for the same bytes.

    Raises:
        CheckFailedError: the tensor has another shape.
    """
    if tensor.shape[1:] != kept.shape:
        raise CheckFailedError(
            f"{name} has shape {list(tensor.shape[1:])}, and had {list(kept.shape)}",
            remedy=f"verify an artefact of the golden file's network, or {ANEW}",
        )
    finite = np.isfinite(tensor)
    if not finite.all() or not np.isfinite(kept.norms).all():
        return _estimated(name, float("inf"), tolerance, passed=False, extent=extent_of(~finite))
    if tensor_sha256(tensor) == kept.sha256:
        return _estimated(name, 0.0, tolerance, passed=True)
    apart = np.linalg.norm(sketch(tensor) - kept.sketch.unpack(), axis=1)
    norm = max(ratio(*pair) for pair in zip(apart, kept.norms, strict=True))
    # As the root of the mean square of all numbers.
    typical = float(apart.max()) / tensor[0].size ** 0.5
    return _estimated(name, norm, tolerance, passed=tolerance is None or norm <= tolerance or typical <= absolute)


def _estimated(
    name: str, norm: float, tolerance: float | None, *, passed: bool, extent: Extent | None = None
) -> Difference:
    return Difference(
        name=name,
        max_abs=None,
        relative=None,
        norm=norm,
        cosine=None,
        tolerance=tolerance,
        passed=passed,
        extent=extent,
    )
