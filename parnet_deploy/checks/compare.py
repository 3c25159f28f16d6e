"""Compare two artefacts of one network on the same images: logits, and each boundary tensor that both compute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.checks.predictors import Predictor
from parnet_deploy.checks.tolerances import tolerance_for
from parnet_deploy.errors import CheckFailedError, InferenceError
from parnet_deploy.planning.partition import LOGITS

Array = NDArray[Any]


@dataclass(frozen=True)
class TensorDifference:
    """How far two tensors differ; `relative` is max|a-b| / max|a|, `cosine` the least over the samples."""

    name: str
    max_abs: float
    relative: float
    cosine: float


@dataclass(frozen=True)
class Comparison:
    """The difference between two artefacts on a set of images."""

    images: str
    count: int
    logits: TensorDifference
    top1_agreement: float
    stages: tuple[TensorDifference, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the logits, and the stages where they were compared, are within the tolerance."""
        return all(entry.relative <= self.tolerance for entry in (self.logits, *self.stages))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "passed": self.passed}


def tensor_difference(name: str, a: Array, b: Array) -> TensorDifference:
    """Measure the difference between two arrays `[N, ...]` in float64; not-a-number anywhere makes it infinite."""
    a, b = a.astype(np.float64).reshape(len(a), -1), b.astype(np.float64).reshape(len(b), -1)
    if a.shape != b.shape:
        raise InferenceError(f"{name}: {a.shape[1]} numbers against {b.shape[1]}", remedy="compare like with like")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return TensorDifference(name, float("inf"), float("inf"), float("nan"))
    max_abs, scale = float(np.abs(a - b).max()), float(np.abs(a).max())
    relative = max_abs / scale if scale else max_abs
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(axis=1), norms, out=np.ones_like(norms), where=norms > 0)
    return TensorDifference(name, max_abs, relative, float(cosines.min()))


def compare(
    a: Predictor,
    b: Predictor,
    images: Mapping[str, Array],
    *,
    per_stage: bool = False,
    tolerance: float | None = None,
) -> tuple[Comparison, ...]:
    """Compare two artefacts on each named set of images `[N, C, H, W]`.

    Raises:
        CheckFailedError: the artefacts are of different networks: other classes or another input size.
    """
    if a.num_classes != b.num_classes:
        raise CheckFailedError(f"{a.num_classes} classes against {b.num_classes}: these are different networks")
    bound = tolerance_for(a.precision, b.precision) if tolerance is None else tolerance
    return tuple(_compare_on(name, a, b, batch, per_stage, bound) for name, batch in images.items())


def _compare_on(name: str, a: Predictor, b: Predictor, images: Array, per_stage: bool, bound: float) -> Comparison:
    stages: tuple[TensorDifference, ...] = ()
    if per_stage:
        of_a, of_b = a.predict_tensors(images), b.predict_tensors(images)
        logits_a, logits_b = of_a.pop(LOGITS), of_b.pop(LOGITS)
        stages = tuple(tensor_difference(key, of_a[key], of_b[key]) for key in of_a if key in of_b)
    else:
        logits_a, logits_b = a.predict(images), b.predict(images)
    agreement = float((logits_a.argmax(axis=1) == logits_b.argmax(axis=1)).mean())
    return Comparison(
        images=name,
        count=len(images),
        logits=tensor_difference(LOGITS, logits_a, logits_b),
        top1_agreement=agreement,
        stages=stages,
        tolerance=bound,
    )
