"""Export: every partition, precision and batch of every kind of network computes what torch computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.checks.bundle_predictor import BundlePredictor
from parnet_deploy.checks.checkpoint_predictor import CheckpointPredictor
from parnet_deploy.engines import build_plan
from parnet_deploy.errors import CheckFailedError, EngineError, ExportError, NetworkError, OutputExistsError
from parnet_deploy.export import ExportOptions, export_bundle
from parnet_deploy.export import bundle as bundle_module
from parnet_deploy.graphs.half import relative_difference
from parnet_deploy.planning.partition import PARTITIONS
from parnet_deploy.runtime import Session

STREAMS = ["one_stream", "two_streams", "three_streams", "four_streams", "cifar"]
DYNAMIC = BatchRange(min=1, opt=2, max=4)


def images(count: int, size: int = 64, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("partition", PARTITIONS)
@pytest.mark.parametrize("name", STREAMS)
def test_partition_equals_torch_and_whole(checkpoint_pair, tmp_path: Path, name: str, partition: str) -> None:
    pair = checkpoint_pair(name)
    export_bundle(pair.fused, tmp_path / "whole", ExportOptions(batch=DYNAMIC))
    bundle = export_bundle(pair.fused, tmp_path / "cut", ExportOptions(partition=partition, batch=DYNAMIC))
    whole, cut = BundlePredictor(tmp_path / "whole"), BundlePredictor(tmp_path / "cut")
    torch_logits = CheckpointPredictor(pair.training).predict(images(3))
    # The stages are sub-graphs of the same graph, so not one bit may differ.
    assert np.array_equal(whole.predict(images(3)), cut.predict(images(3)))
    assert relative_difference(torch_logits, cut.predict(images(3))) < 1e-5
    assert {stage.name for stage in bundle.stages} >= ({"whole"} if partition == "whole" else {"join"})
    assert all(found.relative < 1e-5 for found in bundle.parity.values())


@pytest.mark.parametrize("partition", ["streams", "terms-shared-stem"])
@pytest.mark.parametrize("name", ["one_stream", "three_streams", "four_streams"])
def test_half_precision_is_in_the_file(checkpoint_pair, tmp_path: Path, name: str, partition: str) -> None:
    pair = checkpoint_pair(name)
    options = ExportOptions(partition=partition, precision="fp16", batch=DYNAMIC)
    bundle = export_bundle(pair.fused, tmp_path / "b", options)
    between = {n for stage in bundle.stages for n in (*stage.inputs, *stage.outputs)} - {"image", "logits"}
    assert {bundle.tensors[n].dtype for n in between} == {"float16"}
    assert bundle.tensors["image"].dtype == bundle.tensors["logits"].dtype == "float32"
    assert bundle.float32_islands == ()
    for stage in bundle.stages:
        model = onnx.load(tmp_path / "b" / stage.file.name)
        weights = {i.data_type for i in model.graph.initializer if i.data_type in (1, 10)}
        assert weights == {onnx.TensorProto.FLOAT16}
    expected = CheckpointPredictor(pair.training).predict(images(3))
    difference = relative_difference(expected, BundlePredictor(tmp_path / "b").predict(images(3)))
    assert 1e-7 < difference < 5e-3


@pytest.mark.parametrize("name", ["one_stream", "three_streams", "four_streams"])
def test_bfloat16_is_in_the_file_and_float32_between_stages(checkpoint_pair, tmp_path: Path, name: str) -> None:
    pair = checkpoint_pair(name)
    options = ExportOptions(partition="terms-shared-stem", precision="bf16", batch=DYNAMIC)
    bundle = export_bundle(pair.fused, tmp_path / "cut", options)
    assert {tensor.dtype for tensor in bundle.tensors.values()} == {"float32"}
    for stage in bundle.stages:
        model = onnx.load(tmp_path / "cut" / stage.file.name)
        assert {entry.data_type for entry in model.graph.initializer} - {TensorProto.INT64} == {TensorProto.BFLOAT16}
    expected = CheckpointPredictor(pair.training).predict(images(3))
    found = BundlePredictor(tmp_path / "cut").predict(images(3))
    assert 1e-3 < relative_difference(expected, found) < 4e-2
    # What crosses is bfloat16 numbers in float32, so cutting changes not one bit.
    export_bundle(pair.fused, tmp_path / "whole", ExportOptions(precision="bf16", batch=DYNAMIC))
    assert np.array_equal(BundlePredictor(tmp_path / "whole").predict(images(3)), found)


@pytest.mark.parametrize("partition", ["whole", "streams"])
def test_bfloat16_by_openvino_and_not_by_onnxruntime(checkpoint_pair, tmp_path: Path, partition: str) -> None:
    export_bundle(checkpoint_pair("three_streams").fused, tmp_path / "b", ExportOptions(partition, "bf16"))
    build_plan(tmp_path / "b", tmp_path / "plan", backend="openvino")
    with Session.open(tmp_path / "plan") as session:
        found = session.infer(images(1))
    # Where the processor has no bfloat16, OpenVINO computes in float32 with the weights of the file.
    assert 1e-6 < relative_difference(BundlePredictor(tmp_path / "b").predict(images(1)), found) < 4e-2
    for backend in ("onnxruntime", "ncnn"):
        with pytest.raises(EngineError, match=f"in bf16, which backend '{backend}' does not compute") as refused:
            build_plan(tmp_path / "b", tmp_path / "no", backend=backend)
        assert refused.value.remedy == "build with openvino or tensorrt, or export with --precision fp32 or fp16"


@pytest.mark.parametrize("partition", ["whole", "streams", "shared-stem"])
def test_training_form_exports_too(checkpoint_pair, tmp_path: Path, partition: str) -> None:
    pair = checkpoint_pair("three_streams")
    bundle = export_bundle(pair.training, tmp_path / "b", ExportOptions(partition=partition))
    expected = CheckpointPredictor(pair.training).predict(images(1))
    assert relative_difference(expected, BundlePredictor(tmp_path / "b").predict(images(1))) < 1e-5
    assert sum(stage.node_counts.get("BatchNormalization", 0) for stage in bundle.stages) > 0


def test_terms_need_the_fused_form(checkpoint_pair, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="fuse the checkpoint first"):
        export_bundle(checkpoint_pair("three_streams").training, tmp_path / "b", ExportOptions(partition="terms"))
    assert not (tmp_path / "b").exists()


def test_same_checkpoint_gives_same_bytes(checkpoint_pair, tmp_path: Path) -> None:
    pair = checkpoint_pair("three_streams")
    for name in ("first", "second"):
        export_bundle(pair.fused, tmp_path / name, ExportOptions(partition="streams", precision="fp16"))
    assert open_bundle(tmp_path / "first").sha256 == open_bundle(tmp_path / "second").sha256


def test_resolution_and_batch_are_in_the_bundle(checkpoint_pair, tmp_path: Path) -> None:
    pair = checkpoint_pair("two_streams")
    options = ExportOptions(partition="streams", resolution=96, batch=BatchRange(min=3, opt=3, max=3))
    bundle = export_bundle(pair.fused, tmp_path / "b", options)
    assert bundle.preprocessing.input_size == (3, 96, 96)
    assert bundle.tensors["image"].shape == (3, 96, 96)
    model = onnx.load(tmp_path / "b" / "stream1.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [3, 3, 96, 96]
    expected = CheckpointPredictor(pair.training).predict(images(4, 96))
    # Four images in batches of exactly three: the second batch is filled up.
    assert relative_difference(expected, BundlePredictor(tmp_path / "b").predict(images(4, 96))) < 1e-5


def test_files_say_what_they_are(checkpoint_pair, tmp_path: Path) -> None:
    pair = checkpoint_pair("three_streams")
    bundle = export_bundle(pair.fused, tmp_path / "b", ExportOptions(partition="streams"))
    for stage in bundle.stages:
        model = onnx.load(tmp_path / "b" / stage.file.name)
        found = {entry.key: entry.value for entry in model.metadata_props}
        assert found["parnet_deploy.stage"] == stage.name
        assert found["parnet_deploy.parent_sha256"] == bundle.parent.sha256
        assert json.loads(found["parnet_deploy.label_names"]) == list("abcdefg")
        assert json.loads(found["parnet_deploy.preprocessing"])["input_size"] == [3, 64, 64]
        assert sum(stage.node_counts.values()) == len(model.graph.node)


def test_sizes_that_training_cannot_take_are_refused(checkpoint_pair, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="multiples of 32"):
        export_bundle(checkpoint_pair("three_streams").fused, tmp_path / "b", ExportOptions(resolution=80))
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_kept(checkpoint_pair, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("mine")
    for force in (False, True):  # not even --force replaces a folder that the tool did not write
        with pytest.raises(OutputExistsError):
            export_bundle(checkpoint_pair("three_streams").fused, tmp_path / "b", force=force)
    assert (tmp_path / "b" / "mine.txt").read_text() == "mine"


def test_a_slip_in_the_clean_up_is_caught(checkpoint_pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clean_wrongly(model, **options):
        cleaned = clean(model, **options)
        pool = next(node for node in cleaned.graph if node.op_type == "GlobalAveragePool")
        pool.op_type = "GlobalMaxPool"
        return cleaned

    clean = bundle_module.clean
    monkeypatch.setattr(bundle_module, "clean", clean_wrongly)
    with pytest.raises(CheckFailedError, match="differs from torch"):
        export_bundle(checkpoint_pair("three_streams").fused, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
