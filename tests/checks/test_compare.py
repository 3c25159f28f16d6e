"""Comparisons: numbers by hand, faults that must be found, and every kind of artefact against every other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from parnet_deploy.artifacts.schemas import BatchRange, NetworkConfig, Preprocessing
from parnet_deploy.checks.compare import compare
from parnet_deploy.checks.differences import tensor_difference
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.checks.tolerances import TOLERANCES
from parnet_deploy.datasets.synthetic import random_images
from parnet_deploy.engines import build_plan
from parnet_deploy.errors import CheckFailedError, InferenceError
from parnet_deploy.export import ExportOptions, export_bundle
from parnet_deploy.fusion import fuse
from parnet_deploy.models.checkpoints import save_checkpoint
from parnet_deploy.models.initialization import create_random_network

NETWORK = NetworkConfig(stem=(6, 8), planes=(8, 12, 16), num_blocks=(1, 2, 1), last_planes=20, num_classes=7)
PREPROCESSING = Preprocessing(input_size=(3, 64, 64))


@dataclass
class FixedPredictor:
    """Answers with fixed numbers."""

    logits: np.ndarray
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    kind: str = "plan"
    form: str = "fused"
    precision: str = "fp32"
    preprocessing: Preprocessing = PREPROCESSING
    label_names: None = None

    @property
    def num_classes(self) -> int:
        return self.logits.shape[1]

    def predict(self, _images: np.ndarray) -> np.ndarray:
        return self.logits

    def predict_tensors(self, _images: np.ndarray) -> dict[str, np.ndarray]:
        return {**self.tensors, "logits": self.logits}


def test_difference_by_hand() -> None:
    found = tensor_difference("t", np.array([[3.0, -4.0]]), np.array([[3.0, -3.0]]))
    assert (found.max_abs, found.relative, found.norm) == (1.0, 0.25, 0.2)
    assert found.cosine == pytest.approx(21 / (5 * np.sqrt(18)))
    same = tensor_difference("t", np.zeros((1, 2)), np.zeros((1, 2)))
    assert (same.max_abs, same.relative, same.norm, same.cosine, same.extent) == (0.0, 0.0, 0.0, 1.0, None)


def test_a_small_image_is_not_hidden_by_a_large_one() -> None:
    a = np.array([[100.0, 0.0], [0.3, 0.4]])
    found = tensor_difference("t", a, a + np.array([[0.0, 0.0], [0.1, 0.0]]), tolerance=0.01)
    assert found.relative == pytest.approx(0.001)
    assert found.norm == pytest.approx(0.2)
    assert found.size == found.norm
    assert not found.passed


@pytest.mark.parametrize(
    ("error", "tolerance", "absolute", "passed"),
    [
        (1e-3, 1e-3, 0.0, True),
        (1.1e-3, 1e-3, 0.0, False),
        (1.1e-3, 1e-3, 2e-3, True),
        (0.5, None, 0.0, True),
        (0.0, 0.0, 0.0, True),
        (1e-9, 0.0, 0.0, False),
    ],
)
def test_what_passes(error: float, tolerance: float | None, absolute: float, passed: bool) -> None:
    a = np.array([[1.0, 0.0]])
    assert tensor_difference("t", a, a + np.array([[0.0, error]]), tolerance, absolute).passed == passed


def test_a_tensor_near_zero_is_held_to_the_floor() -> None:
    a, b = np.full((1, 8), 1e-12), np.full((1, 8), -1e-12)
    assert tensor_difference("t", a, b, 1e-4, 1e-7).passed
    assert not tensor_difference("t", a, b, 1e-4, 1e-13).passed
    assert tensor_difference("t", np.zeros((1, 8)), np.full((1, 8), 1e-3), 1e-4, 1e-7).relative == 1e-3


def test_where_they_differ() -> None:
    a = np.ones((3, 16, 6, 6))
    b = a.copy()
    b[1, 5, :, 0] += 1
    b[1, 7, 0, 3] += 1
    extent = tensor_difference("t", a, b).extent
    assert extent is not None
    assert (extent.images, extent.image_count, extent.num_images) == ((1,), 1, 3)
    assert (extent.channels, extent.channel_count, extent.num_channels) == ((5, 7), 2, 16)
    assert extent.only_border
    assert extent.share == pytest.approx(7 / a.size)
    b[1, 5, 2, 2] += 1
    inner = tensor_difference("t", a, b).extent
    assert inner is not None
    assert not inner.only_border
    # A tenth of the largest difference does not count as where it lies.
    b[:, 0] += 0.09
    assert tensor_difference("t", a, b).extent == inner.model_copy(update={"share": 8 / a.size})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_never_pass(bad: float) -> None:
    a, b = np.ones((1, 3)), np.array([[1.0, bad, 1.0]])
    for left, right in ((a, b), (b, a), (b, b)):
        found = tensor_difference("t", left, right, tolerance=None)
        assert found.relative == found.norm == float("inf")
        assert not found.passed
        assert found.extent is not None
        assert found.extent.channels == (1,)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(InferenceError, match="6 numbers against 5"):
        tensor_difference("t", np.ones((1, 2, 3)), np.ones((1, 5)))
    with pytest.raises(CheckFailedError, match="3 classes against 4"):
        compare(FixedPredictor(np.ones((1, 3))), FixedPredictor(np.ones((1, 4))), {"x": np.zeros((1, 3, 8, 8))})


def test_agreement_and_verdict() -> None:
    a = FixedPredictor(np.array([[1.0, 0.0], [0.0, 1.0]]), {"s": np.ones((2, 4))})
    b = FixedPredictor(np.array([[1.0, 0.0], [1.0, 0.0]]), {"s": 1.5 * np.ones((2, 4)), "other": np.ones((2, 1))})
    (plain,) = compare(a, b, {"x": np.zeros((2, 3, 8, 8))}, tolerance=1.5)
    assert (plain.top1_agreement, plain.passed, plain.stages) == (0.5, True, ())
    (staged,) = compare(a, b, {"x": np.zeros((2, 3, 8, 8))}, detail="stages", tolerance=0.4)
    assert [entry.name for entry in staged.stages] == ["s"]
    assert staged.stages[0].relative == 0.5
    assert not staged.passed


def test_other_inputs_are_refused() -> None:
    a, b = FixedPredictor(np.ones((1, 3))), FixedPredictor(np.ones((1, 3)))
    b.preprocessing = Preprocessing(input_size=(3, 32, 32))
    with pytest.raises(CheckFailedError, match="inputs of 3x64x64 against 3x32x32"):
        compare(a, b, {"x": np.zeros((1, 3, 64, 64))})
    # A checkpoint takes any size.
    a.kind = "checkpoint"
    assert compare(a, b, {"x": np.zeros((1, 3, 32, 32))})[0].passed


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artefacts")
    network = create_random_network(NETWORK, seed=5)
    paths = {"training": folder / "t.safetensors", "fused": folder / "f.safetensors"}
    for name, model in (("training", network), ("fused", fuse(network))):
        save_checkpoint(paths[name], model, architecture="small", preprocessing=PREPROCESSING)
    for name, options in {
        "whole": ExportOptions(batch=BatchRange(min=1, opt=2, max=4)),
        "terms": ExportOptions(partition="terms-shared-stem"),
        "half": ExportOptions(partition="streams", precision="fp16"),
    }.items():
        export_bundle(paths["fused"], folder / f"b_{name}", options)
        build_plan(folder / f"b_{name}", folder / f"p_{name}")
        paths |= {f"bundle {name}": folder / f"b_{name}", f"plan {name}": folder / f"p_{name}"}
    return paths


@pytest.mark.parametrize("name", ["fused", "bundle whole", "plan whole", "bundle terms", "plan terms"])
def test_every_artefact_gives_the_checkpoint_numbers(artefacts: dict[str, Path], name: str) -> None:
    images = {"random": random_images(PREPROCESSING, 5)}
    with open_predictor(artefacts["training"]) as a, open_predictor(artefacts[name]) as b:
        (found,) = compare(a, b, images, detail="stages", tolerance=1e-5)
    assert found.passed
    assert found.top1_agreement == 1.0
    expected = {"fused": 9, "bundle whole": 0, "plan whole": 0, "bundle terms": 3, "plan terms": 3}
    assert len(found.stages) == expected[name]


def test_half_precision_is_held_to_its_own_tolerance(artefacts: dict[str, Path]) -> None:
    images = {"random": random_images(PREPROCESSING, 3)}
    with open_predictor(artefacts["training"]) as a, open_predictor(artefacts["plan half"]) as b:
        (found,) = compare(a, b, images, detail="stages")
    assert found.passed
    assert found.tolerance == TOLERANCES["fp16"].logits
    assert 1e-5 < found.logits.relative < 5e-3
    assert [entry.name for entry in found.stages] == ["stream1", "stream2", "stream3"]


def test_another_network_is_told_apart(artefacts: dict[str, Path], tmp_path: Path) -> None:
    other = create_random_network(NETWORK, seed=6)
    save_checkpoint(tmp_path / "o.safetensors", other, architecture="small", preprocessing=PREPROCESSING)
    with open_predictor(tmp_path / "o.safetensors") as a, open_predictor(artefacts["plan whole"]) as b:
        (found,) = compare(a, b, {"random": random_images(PREPROCESSING, 3)})
    assert not found.passed
    assert found.logits.relative > 0.1
