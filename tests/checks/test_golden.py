"""Golden files: what is remembered, what is noticed, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parnet_deploy.artifacts.golden import MAX_GOLDEN_BYTES, Golden, PackedArray, read_golden, write_golden
from parnet_deploy.artifacts.verification import Change
from parnet_deploy.checks.gate import remember, verify_golden
from parnet_deploy.checks.golden import changes_since, compare_golden
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.checks.tolerances import TOLERANCES
from parnet_deploy.datasets.synthetic import random_images
from parnet_deploy.errors import ArtifactError, CheckFailedError, DataError, InferenceError, OutputExistsError
from parnet_deploy.planning.layers import network_layers
from tests.checks.conftest import NETWORKS, PREPROCESSING
from tests.checks.damage import damage_bundle, damage_checkpoint, in_block, poison, scale

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[..., Path]
BLOCKS = list(dict.fromkeys(layer.block for layer in network_layers(NETWORKS["three_streams"])))


@pytest.fixture(scope="module")
def golden(checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "golden.json"
    remember(checkpoint("three_streams", "training"), path, count=3, seed=8)
    return path


def test_what_is_remembered(checkpoint: Make, golden: Path) -> None:
    kept = read_golden(golden)
    assert golden.stat().st_size < MAX_GOLDEN_BYTES / 10
    (only,) = kept.sets
    assert (only.images.source, only.images.seed, only.images.count) == ("synthetic", 8, 3)
    with open_predictor(checkpoint("three_streams", "training")) as predictor:
        logits = predictor.predict(random_images(PREPROCESSING, 3, seed=8))
        assert kept.artefact == predictor.record
    # Whole, to the bit.
    assert (only.logits.unpack() == logits).all()
    assert list(only.tensors) == [
        layer.tensor
        for layer in network_layers(NETWORKS["three_streams"])
        if "/" not in layer.tensor and layer.tensor != "logits"
    ]
    assert only.tensors["stream1"].shape == (8, 16, 16)
    assert kept.environment.packages["numpy"] == np.__version__


def test_the_same_artefact_is_identical(checkpoint: Make, golden: Path) -> None:
    found = verify_golden(checkpoint("three_streams", "training"), golden, tolerance=0.0)
    assert found.passed
    assert found.is_golden
    assert found.changes == ()
    (comparison,) = found.comparisons
    assert (comparison.images, comparison.count) == ("random", 3)
    assert all(layer.size == 0 for layer in comparison.layers)


@pytest.mark.parametrize(
    ("kind", "options"), [("checkpoint", ""), ("bundle", "whole"), ("bundle", "streams"), ("plan", "terms")]
)
def test_what_was_made_of_it_agrees(
    checkpoint: Make, bundle: Make, plan: Make, golden: Path, kind: str, options: str
) -> None:
    made = {
        "checkpoint": lambda: checkpoint("three_streams", "fused"),
        "bundle": lambda: bundle("three_streams", "fused", options),
        "plan": lambda: plan("three_streams", "fused", options),
    }[kind]()
    found = verify_golden(made, golden)
    assert found.passed
    (comparison,) = found.comparisons
    assert comparison.departure is None
    assert {block for layer in comparison.layers for block in layer.blocks} == set(BLOCKS)
    assert all(0 < layer.size < 5e-6 for layer in comparison.layers)
    assert {"manifest", "form"} <= {change.what for change in found.changes}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_damaged_block_is_named(checkpoint: Make, golden: Path, tmp_path: Path, block: str) -> None:
    damaged = damage_checkpoint(
        checkpoint("three_streams", "fused"), tmp_path / "d.safetensors", in_block(block, scale)
    )
    found = verify_golden(damaged, golden)
    assert not found.passed
    departure = found.comparisons[0].departure
    assert departure is not None
    assert (departure.blocks, departure.others) == ((block,), ())


def test_a_damaged_copy_of_the_stem_and_not_a_number_are_named(bundle: Make, golden: Path, tmp_path: Path) -> None:
    source = bundle("three_streams", "fused", "streams")
    copy = damage_bundle(source, tmp_path / "copy", "stream3", "stem.1", scale)
    departure = verify_golden(copy, golden).comparisons[0].departure
    assert departure is not None
    assert "stem (block stem.1) in stage stream3 is the first to depart" in departure.sentence
    poisoned = damage_bundle(source, tmp_path / "poisoned", "join", "fusion3", poison)
    departure = verify_golden(poisoned, golden).comparisons[0].departure
    assert departure is not None
    assert (departure.layer, departure.reason) == ("fusion3", "not finite")


def test_real_images_are_told_by_their_pixels(checkpoint: Make, tmp_path: Path) -> None:
    from PIL import Image

    for name, shade in (("a", 60), ("b", 61)):
        (tmp_path / name).mkdir()
        Image.new("RGB", (80, 70), (shade, 90, 20)).save(tmp_path / name / "0.png")
    artefact = checkpoint("three_streams", "fused")
    remember(artefact, tmp_path / "files.json", data=str(tmp_path / "a"))
    remember(artefact, tmp_path / "digits.json", data="digits", count=2)
    same = verify_golden(artefact, tmp_path / "files.json", data=str(tmp_path / "a"))
    assert [comparison.images for comparison in same.comparisons] == ["real (a)", "random"]
    assert verify_golden(artefact, tmp_path / "digits.json", tolerance=0.0).passed
    with pytest.raises(DataError, match="written for real"):
        verify_golden(artefact, tmp_path / "files.json")
    with pytest.raises(DataError, match="not those that the golden file was written for"):
        verify_golden(artefact, tmp_path / "files.json", data=str(tmp_path / "b"))


def test_classes_are_judged_on_the_real_images(checkpoint: Make, golden: Path, tmp_path: Path) -> None:
    artefact = checkpoint("three_streams", "fused")
    remember(artefact, tmp_path / "digits.json", data="digits", count=2)
    with open_predictor(artefact) as predictor:
        found = compare_golden(read_golden(tmp_path / "digits.json"), predictor, TOLERANCES["int8"])
        assert [(comparison.images, comparison.agreement) for comparison in found] == [
            ("real (held-out digits)", 0.98),
            ("random", None),
        ]
        (alone,) = compare_golden(read_golden(golden), predictor, TOLERANCES["int8"])
        assert alone.agreement == 0.98


def test_random_images_that_changed_are_told(checkpoint: Make, golden: Path, tmp_path: Path) -> None:
    kept = read_golden(golden)
    images = kept.sets[0].images.model_copy(update={"seed": 9})
    write_golden(tmp_path / "g.json", with_sets(kept, images=images), force=False)
    with pytest.raises(DataError, match="not those that the golden file was written for: random"):
        verify_golden(checkpoint("three_streams", "fused"), tmp_path / "g.json")
    with pytest.raises(DataError, match="random images alone"):
        verify_golden(checkpoint("three_streams", "fused"), golden, data="digits")


def with_sets(golden: Golden, **update: object) -> Golden:
    return golden.model_copy(update={"sets": (golden.sets[0].model_copy(update=update),)})


def test_another_network_is_a_failed_check(checkpoint: Make, golden: Path) -> None:
    with pytest.raises(CheckFailedError, match=r"stem.0 has shape \[8, 64, 64\], and had \[6, 32, 32\]"):
        verify_golden(checkpoint("cifar", "fused"), golden)


def test_tolerances_of_a_golden_file(checkpoint: Make, bundle: Make, tmp_path: Path) -> None:
    source = checkpoint("three_streams", "training")
    remember(source, tmp_path / "strict.json", tolerance=1e-9)
    fused, half = checkpoint("three_streams", "fused"), bundle("three_streams", "fused", "half")
    assert not verify_golden(fused, tmp_path / "strict.json").passed
    assert verify_golden(fused, tmp_path / "strict.json", tolerance=1e-5).passed
    remember(source, tmp_path / "default.json")
    found = verify_golden(half, tmp_path / "default.json")
    assert found.passed
    assert found.tolerance.precision == "fp16"


def test_changes_name_versions_parent_and_machine(plan: Make, tmp_path: Path) -> None:
    path = plan("three_streams", "fused", "whole")
    remember(path, tmp_path / "plan.json")
    kept = read_golden(tmp_path / "plan.json")
    with open_predictor(path) as predictor:
        now = predictor.record
    assert changes_since(kept, now, kept.environment) == ()
    assert now.parent is not None
    rebuilt = now.model_copy(
        update={
            "tools": {"onnxruntime": "9.9"},
            "parent": now.parent.model_copy(update={"sha256": "ab" * 32}),
            "devices": (now.devices[0].model_copy(update={"capability": "x86_64 amx"}),),
        }
    )
    elsewhere = kept.environment.model_copy(update={"processor": "Another", "packages": {"numpy": "9.0"}})
    found = {change.what: change for change in changes_since(kept, rebuilt, elsewhere)}
    assert found["built with onnxruntime"] == Change(
        what="built with onnxruntime", before=now.tools["onnxruntime"], after="9.9"
    )
    assert found["parent bundle"].after == "ab" * 6
    assert found["built for cpu"].after.endswith("(x86_64 amx)")
    assert found["processor"].after.startswith("Another")
    assert found["installed numpy"].after == "9.0"
    assert found["installed torch"].after == "none"
    assert "manifest" not in found


# --- The file ---------------------------------------------------------------------------------------------------------


def test_it_survives_a_round_trip(golden: Path, tmp_path: Path) -> None:
    kept = read_golden(golden)
    write_golden(tmp_path / "again.json", kept, force=False)
    assert (tmp_path / "again.json").read_bytes() == golden.read_bytes()
    with pytest.raises(OutputExistsError):
        write_golden(tmp_path / "again.json", kept, force=False)
    write_golden(tmp_path / "again.json", kept, force=True)


def test_answers_that_are_not_finite_are_not_remembered(bundle: Make, tmp_path: Path) -> None:
    poisoned = damage_bundle(bundle("three_streams", "fused", "whole"), tmp_path / "b", "whole", "stream1.0", poison)
    with pytest.raises(InferenceError, match="NaN or infinite logits for 4 of 4 images"):
        remember(poisoned, tmp_path / "g.json")
    assert not (tmp_path / "g.json").exists()


def edit_number(text: str) -> str:
    return text.replace('"seed": 8', '"seed": 7')


def edit_base64(text: str) -> str:
    start = text.index('"base64": "') + 40
    return text[:start] + ("A" if text[start] != "A" else "B") + text[start + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (edit_number, "does not have the sha256 that the file says"),
        (edit_base64, "does not have the sha256 that the file says"),
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: text[:0], "not valid JSON"),
        (lambda text: text.replace('"base64": "', '"base64": "#', 1), "base64"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 2'), "schema version 2"),
        (lambda text: text.replace('"kind": "golden"', '"kind": "report"'), "kind 'report', not 'golden'"),
        (lambda text: text.replace('"created"', '"made"'), "created"),
        (lambda text: text.replace('"count": 3', '"count": 2'), "not 2 rows for 2 images"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(
    golden: Path, tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    text = golden.read_text()
    assert damage(text) != text
    (tmp_path / "g.json").write_text(damage(text))
    with pytest.raises(ArtifactError, match=message) as caught:
        read_golden(tmp_path / "g.json")
    assert caught.value.where == str(tmp_path / "g.json")


def test_a_missing_one_and_a_large_one_are_refused(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such golden file"):
        read_golden(tmp_path / "none.json")
    kept = read_golden(golden)
    large = with_sets(kept, logits=PackedArray.of(np.zeros((3, 40_000))))
    with pytest.raises(ArtifactError, match="more than a golden file may have") as caught:
        write_golden(tmp_path / "g.json", large, force=False)
    assert "--count" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_kept_to_the_bit() -> None:
    values = np.array([[0.1, -0.0, 1e-310], [np.inf, np.nan, 3.0]])
    found = PackedArray.of(values).unpack()
    assert found.tobytes() == values.tobytes()
    assert PackedArray.of(np.zeros((0, 3))).unpack().shape == (0, 3)
