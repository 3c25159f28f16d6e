"""One protocol over every artefact: images to logits, and to every tensor on the way when asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

from parnet_deploy.artifacts.files import sha256_of_file
from parnet_deploy.artifacts.folders import ArtifactKind, OpenPlan, kind_of
from parnet_deploy.artifacts.schemas import NetworkConfig, Precision, Preprocessing
from parnet_deploy.artifacts.verification import ArtefactRecord
from parnet_deploy.checks.layers import Layers, layers_between
from parnet_deploy.checks.provenance import plan_record
from parnet_deploy.runtime.dequantize import dequantized
from parnet_deploy.runtime.session import Session

if TYPE_CHECKING:
    from parnet_deploy.checks.graph_layers import GraphLayers

Array = NDArray[Any]


class Predictor(Protocol):
    """Predict on preprocessed images `[N, C, H, W]` float32."""

    kind: ArtifactKind
    record: ArtefactRecord
    network: NetworkConfig
    form: Literal["training", "fused"]
    precision: Precision
    preprocessing: Preprocessing
    label_names: tuple[str, ...] | None
    num_classes: int

    def predict(self, images: Array) -> Array:
        """Return logits `[N, classes]` float32."""

    def predict_tensors(self, images: Array) -> dict[str, Array]:
        """Return the boundary tensors that this artefact computes, by name, and the logits."""

    def predict_layers(self, images: Array) -> Layers:
        """Return as many blocks' tensors as this artefact can tell, named as in `planning.layers`, and the logits.

        Fusion outputs are in the fused form's order of channels.
        """


class PlanPredictor:
    """A plan, through its session."""

    kind: ArtifactKind = "plan"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._layers: GraphLayers | None = None
        plan = session.plan
        # The session has checked the files.
        self._opened = OpenPlan(session.folder, plan, sha256_of_file(session.folder / "plan.json"))
        self.record = plan_record(self._opened)
        self.network = plan.network
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

    def predict_layers(self, images: Array) -> Layers:
        """Return the tensors between the stages, as the session's lanes make them.

        ONNX Runtime's engines are ONNX files: they are run again, one by one on what the session handed to each, for
        the layers inside.
        """
        plan, tensors = self._opened.manifest, self._session.infer_stages(images)
        if plan.backend != "onnxruntime":
            return layers_between(plan.stages, dequantized(tensors, plan.tensors))
        if self._layers is None:
            from parnet_deploy.checks.graph_layers import GraphLayers

            self._layers = GraphLayers(plan, [(stage, self._opened.file_of(stage.name)) for stage in plan.stages])
        return self._layers.read(images, tensors)


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
