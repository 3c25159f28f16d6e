"""Schemas: exact round trips, closed to what they do not know, and the rules that tie fields together."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from parnet_deploy.artifacts.files import manifest_bytes
from parnet_deploy.artifacts.schemas import (
    BatchRange,
    Bundle,
    Card,
    FileName,
    FileRecord,
    Lane,
    NetworkConfig,
    Parent,
    Plan,
    Preprocessing,
    StageName,
    TensorSpec,
)
from parnet_deploy.errors import ArtifactError

CARD = Card(
    architecture="parnet_pico",
    network=NetworkConfig(stem=(16, 16), planes=(16, 32, 64), num_blocks=(4, 5, 5), last_planes=128, num_classes=2),
    form="training",
    preprocessing=Preprocessing(mean=(0.1, 0.2, 1 / 3)),
    label_names=("cat", "dög"),
    weights=FileRecord(name="net.safetensors", sha256="0" * 64, size_bytes=7),
    parent=Parent(kind="file", name="net.pth.tar", sha256="f" * 64),
    metrics={"top1": 1 / 3},
    origin={"made_by": "a test", "seed": 3, "nested": {"a": [1, None]}},
)


def rebuilt(manifest: BaseModel, **changes: Any) -> BaseModel:
    """Validate a manifest's JSON with some fields replaced."""
    return type(manifest).model_validate(json.loads(manifest_bytes(manifest)) | changes)


@pytest.fixture
def manifest(request: pytest.FixtureRequest) -> BaseModel:
    """Each manifest in turn, by the name of its fixture."""
    if request.param == "card":
        return CARD
    found: tuple[Path, BaseModel] = request.getfixturevalue(request.param)
    return found[1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("input_size", (3, 8193, 32), "less than or equal to 8192"),
        ("input_size", (1, 32, 32), "images of 1 channels for a network of 3"),
        ("mean", (0.0, float("inf"), 0.0), "finite number"),
        ("std", (1.0, 0.0, 1.0), "greater than 0"),
        ("std", (1.0, float("nan"), 1.0), "greater than 0|finite number"),
        ("crop_pct", 1e-300, "greater than or equal to 0.01"),
    ],
)
def test_preprocessing_that_cannot_be_done_is_refused(field: str, value: object, message: str) -> None:
    changed = CARD.preprocessing.model_dump() | {field: value}
    with pytest.raises(ValidationError, match=message):
        rebuilt(CARD, preprocessing=changed)


every_manifest = pytest.mark.parametrize("manifest", ["card", "bundle", "plan"], indirect=True)


@every_manifest
def test_round_trip_through_json_is_exact(manifest: BaseModel) -> None:
    again = rebuilt(manifest)
    assert again == manifest
    assert manifest_bytes(again) == manifest_bytes(manifest)


@every_manifest
@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"new_field": 1}, ("new_field",)),
        ({"schema_version": 2}, ("schema_version",)),
        ({"kind": "report"}, ("kind",)),
        ({"form": "merged"}, ("form",)),
        ({"preprocessing": {"input_size": [3, 0, 32]}}, ("preprocessing", "input_size", 1)),
        ({"preprocessing": {"sharpen": True}}, ("preprocessing", "sharpen")),
        ({"parent": {"kind": "file", "name": "x", "sha256": "A" * 64}}, ("parent", "sha256")),
    ],
)
def test_what_a_schema_does_not_know_is_refused(
    manifest: BaseModel, changes: dict[str, Any], place: tuple[str | int, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        rebuilt(manifest, **changes)
    assert [error["loc"] for error in caught.value.errors()] == [place]


@every_manifest
def test_manifests_cannot_be_changed(manifest: BaseModel) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        manifest.form = "fused"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "a\\b", "..", ".", ".hidden", "", "a\nb", "a\x00b", "x" * 201, "a/", "net\n"],
)
def test_paths_are_no_file_names(name: str) -> None:
    with pytest.raises(ValidationError):
        FileRecord(name=name, sha256="0" * 64, size_bytes=1)
    with pytest.raises(ValidationError):
        rebuilt(CARD, weights={"name": name, "sha256": "0" * 64, "size_bytes": 1})


@given(name=st.text(max_size=30))
def test_a_file_name_that_is_taken_stays_in_its_folder(name: str) -> None:
    try:
        TypeAdapter(FileName).validate_python(name)
    except ValidationError:
        return
    assert (Path("/folder") / name).parent == Path("/folder")
    assert Path(name).name == name


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "ü", "a\n", "x" * 101, ".x"])
def test_stage_names_are_plain(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(StageName).validate_python(name)


def test_file_records_notice_every_difference(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    record = FileRecord.of(path)
    assert (record.name, record.size_bytes) == ("a.bin", 3)
    assert FileRecord.of(path, name="b.bin").name == "b.bin"
    record.check(path)
    for content, message in ((b"abcd", "4 bytes where the manifest says 3"), (b"abd", "sha256 differs")):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=message) as caught:
            record.check(path)
        assert caught.value.where == str(path)
        assert caught.value.remedy is not None
    path.unlink()
    with pytest.raises(ArtifactError, match="the file is missing"):
        record.check(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planes": (8, 8)}, "one entry per stream"),
        ({"stem": (4,)}, "the last stem width must be the first stream's width"),
        ({"planes": (8, 10, 12)}, "multiples of 4"),
        ({"stem": (4, 7), "planes": (7, 8, 12)}, "must be even"),
        ({"stem": ()}, "at least 1 item"),
        ({"stem": (8,) * 9}, "at most 8 items"),
        ({"planes": (8,) * 5, "num_blocks": (1,) * 5}, "at most 4 items"),
        ({"num_blocks": (1, 0, 1)}, "greater than 0"),
        ({"drop_rate": 1.0}, "less than 1"),
        ({"activation": "gelu"}, "'silu' or 'relu'"),
        ({"stem_stride": 3}, "1 or 2"),
        ({"last_planes": 1.5}, "valid integer"),
    ],
)
def test_networks_that_the_blocks_cannot_make_are_refused(changes: dict[str, Any], message: str) -> None:
    fields = {"stem": (4, 8), "planes": (8, 8, 12), "num_blocks": (1, 1, 1), "last_planes": 10}
    assert NetworkConfig.model_validate(fields).num_streams == 3
    with pytest.raises(ValidationError, match=message):
        NetworkConfig.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("stem_stride", "stem", "streams", "last", "reduction"),
    [
        (2, 2, 3, "downsampling", 32),
        (2, 4, 1, "downsampling", 32),
        (2, 1, 4, "downsampling", 32),
        (2, 1, 1, "conv1x1", 2),
        (1, 3, 3, "conv1x1", 4),
        (1, 3, 1, "conv1x1", 1),
        (1, 1, 4, "downsampling", 16),
    ],
)
def test_reduction_counts_the_halvings(stem_stride: int, stem: int, streams: int, last: str, reduction: int) -> None:
    cfg = NetworkConfig.model_validate(
        {
            "stem": (8,) * stem,
            "stem_stride": stem_stride,
            "planes": (8,) * streams,
            "num_blocks": (1,) * streams,
            "last_planes": 8,
            "last": last,
        }
    )
    assert (cfg.reduction, cfg.num_streams) == (reduction, streams)


@given(low=st.integers(-1, 4), best=st.integers(-1, 4), high=st.integers(-1, 4))
def test_batches_are_ordered(low: int, best: int, high: int) -> None:
    if 0 < low <= best <= high:
        assert BatchRange(min=low, opt=best, max=high).is_dynamic == (low < high)
    else:
        with pytest.raises(ValidationError):
            BatchRange(min=low, opt=best, max=high)


def test_sizes_are_in_bytes_of_one_sample() -> None:
    assert TensorSpec(dtype="float32", shape=(3, 224, 224)).size_bytes == 602_112
    assert TensorSpec(dtype="float16", shape=(160, 56, 56)).size_bytes == 1_003_520
    with pytest.raises(ValidationError):
        TensorSpec(dtype="float32", shape=(3, 0))


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:12"])
def test_lanes(device: str) -> None:
    assert str(Lane(device=device, stream=1)) == f"{device}/1"
    with pytest.raises(ValidationError):
        Lane(device=f"{device}x")
    with pytest.raises(ValidationError):
        Lane(device=device, stream=-1)


def test_labels_must_match_the_classes(bundle: tuple[Path, Bundle]) -> None:
    for manifest in (CARD, bundle[1]):
        with pytest.raises(ValidationError, match="1 label names for"):
            rebuilt(manifest, label_names=["one"])
        assert rebuilt(manifest, label_names=None).label_names is None  # type: ignore[attr-defined]


def swapped(stages: list[Any], i: int, j: int) -> list[Any]:
    """Exchange two stages."""
    stages[i], stages[j] = stages[j], stages[i]
    return stages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stages: swapped(stages, 0, 2), "stage 'join' needs 'stream1' before it is made"),
        (lambda stages: stages[:2], "no stage makes 'logits'"),
        (lambda stages: stages[1:], "stage 'join' needs 'stream1' before it is made"),
        (lambda stages: [*stages, stages[0]], "stage 'stream1' appears twice"),
        (lambda stages: [*stages, stages[0] | {"name": "again"}], "tensor 'stream1' is made twice"),
        (lambda stages: [stages[0] | {"outputs": ["image"]}, *stages[1:]], "tensor 'image' is made twice"),
        (lambda stages: [stages[0] | {"inputs": ["x"]}, *stages[1:]], "tensor 'x' is not described"),
        (lambda stages: [stages[0] | {"outputs": ["y"]}, *stages[1:]], "tensor 'y' is not described"),
        (lambda stages: [stages[0] | {"outputs": []}, *stages[1:]], "at least 1 item"),
        (lambda _stages: [], "at least 1 item"),
    ],
)
def test_stages_must_be_a_dag_in_order(
    bundle: tuple[Path, Bundle], plan: tuple[Path, Plan], change: Any, message: str
) -> None:
    for manifest in (bundle[1], plan[1]):
        stages = json.loads(manifest_bytes(manifest))["stages"]
        with pytest.raises(ValidationError, match=re.escape(message)):
            rebuilt(manifest, stages=change(stages))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"image": None}, "tensor 'image' is not described"),
        ({"logits": None}, "tensor 'logits' is not described"),
        ({"image": {"dtype": "float32", "shape": [3, 32]}}, "the input must be an image"),
        ({"logits": {"dtype": "float32", "shape": [4]}}, "one number per class"),
        ({"stream1": {"dtype": "float64", "shape": [1]}}, "'float32', 'float16'"),
        ({"stream1": {"dtype": "int8", "shape": [1]}}, "a tensor of integers, and no other, has a scale"),
        ({"stream1": {"dtype": "float32", "shape": [1], "scale": 0.5}}, "a tensor of integers, and no other"),
        ({"stream1": {"dtype": "uint8", "shape": [1], "scale": 0.0}}, "greater than 0"),
    ],
)
def test_tensors_must_fit_the_network(bundle: tuple[Path, Bundle], tensors: dict[str, Any], message: str) -> None:
    described = json.loads(manifest_bytes(bundle[1]))["tensors"] | tensors
    with pytest.raises(ValidationError, match=message):
        rebuilt(bundle[1], tensors={name: spec for name, spec in described.items() if spec is not None})


def test_engines_and_placement_must_cover_the_stages(plan: tuple[Path, Plan]) -> None:
    content = json.loads(manifest_bytes(plan[1]))
    lane = {"device": "cpu", "stream": 0}
    for changes in (
        {"engines": content["engines"][:2]},
        {"engines": swapped(content["engines"], 0, 1)},
        {"placement": {"stream1": lane, "join": lane}},
        {"placement": content["placement"] | {"other": lane}},
    ):
        with pytest.raises(ValidationError, match="must cover every stage"):
            rebuilt(plan[1], **changes)
    with pytest.raises(ValidationError, match="op"):
        rebuilt(plan[1], schedule=[{"op": "explode", "lane": lane}])
    with pytest.raises(ValidationError, match="at least 1 item"):
        rebuilt(plan[1], devices=[])
