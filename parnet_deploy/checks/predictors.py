"""One protocol over every artefact: images to logits, and to every boundary tensor when asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from parnet_deploy.artifacts.folders import ArtifactKind, kind_of
from parnet_deploy.artifacts.schemas import Precision, Preprocessing
from parnet_deploy.runtime.dequantize import dequantized
from parnet_deploy.runtime.session import Session

Array = NDArray[Any]


class Predictor(Protocol):
    """Predict on preprocessed images `[N, C, H, W]` float32."""

    kind: ArtifactKind
    form: Literal["training", "fused"]
    precision: Precision
    preprocessing: Preprocessing
    label_names: tuple[str, ...] | None
    num_classes: int

    def predict(self, images: Array) -> Array:
        """Return logits `[N, classes]` float32."""

    def predict_tensors(self, images: Array) -> dict[str, Array]:
        """Return the boundary tensors that this artefact computes, by name, and the logits."""


class PlanPredictor:
    """A plan, through its session."""

    kind: ArtifactKind = "plan"

    def __init__(self, session: Session) -> None:
        self._session = session
        plan = session.plan
        self.form = plan.form
        self.precision = plan.precision
        self.preprocessing = plan.preprocessing
        self.label_names = plan.label_names
        self.num_classes = plan.network.num_classes

    def predict(self, images: Array) -> Array:
        """Return logits."""
        return self._session.infer(images)

    def predict_tensors(self, images: Array) -> dict[str, Array]:
        """Return every tensor between the plan's stages, integers dequantised, and the logits."""
        return dequantized(self._session.infer_stages(images), self._session.plan.tensors)


@contextmanager
def open_predictor(path: Path) -> Iterator[Predictor]:
    """Open a checkpoint, bundle or plan as a predictor.

    Raises:
        ArtifactError: no artefact, or a damaged one.
        MissingDependencyError: what the artefact needs is not installed.
    """
    kind = kind_of(path)
    if kind == "checkpoint":
        from parnet_deploy.checks.checkpoint_predictor import CheckpointPredictor

        yield CheckpointPredictor(path)
    elif kind == "bundle":
        from parnet_deploy.checks.bundle_predictor import BundlePredictor

        yield BundlePredictor(path)
    else:
        with Session.open(path) as session:
            yield PlanPredictor(session)
