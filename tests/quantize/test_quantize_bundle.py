"""Quantised bundles of every target and partition: what they hold, what engines make of them, what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from parnet_deploy.artifacts.folders import open_bundle, open_plan
from parnet_deploy.artifacts.schemas import Bundle
from parnet_deploy.checks.bundle_predictor import BundlePredictor
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.cli.main import run_app
from parnet_deploy.datasets.synthetic import random_images
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.cpu import read_cpuinfo
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions
from parnet_deploy.engines.precisions import saturating_form
from parnet_deploy.errors import ArtifactError, EngineError, OutputExistsError, QuantizationError
from parnet_deploy.quantize import QuantizeOptions, quantize_bundle

Quantized = Callable[..., Path]

FORMS = [("cpu", "int8"), ("openvino", "int8"), ("tensorrt", "int8"), ("tensorrt", "fp8")]


def relative(expected: np.ndarray, found: np.ndarray) -> float:
    return float(np.abs(expected - found).max() / np.abs(expected).max())


def images_for(bundle: Path, count: int = 8) -> np.ndarray:
    return random_images(open_bundle(bundle).manifest.preprocessing, count, seed=5)


def capabilities(*names: str) -> BuildOptions:
    return BuildOptions(devices=(0, 1), tensorrt=TensorRTOptions(compute_capabilities=names))


@pytest.mark.parametrize(("target", "precision"), FORMS)
def test_a_cut_graph_answers_as_the_whole_one(
    small_quantized: Quantized, small_bundle: Path, target: str, precision: str
) -> None:
    whole, cut = (small_quantized(target, precision, partition) for partition in ("whole", "streams"))
    manifests: list[Bundle] = [open_bundle(folder).manifest for folder in (whole, cut)]
    batch = images_for(whole)
    answers = [BundlePredictor(folder).predict(batch) for folder in (whole, cut)]
    # Between neighbours in float16 the processor leaves the casts out, where it can and in each stage anew; so what
    # lies between two steps may round apart. In float32 nothing differs.
    assert relative(*answers) <= (0.03 if target == "tensorrt" else 0.0)
    first, second = (manifest.quantization for manifest in manifests)
    assert first is not None
    assert second is not None
    assert first.gate == second.gate
    assert first.gate is not None
    assert first.gate.criterion == "agreement"
    # Not the float network's numbers, and not far from them.
    error = relative(BundlePredictor(small_bundle).predict(batch), answers[0])
    assert 1e-4 < error < {"int8": 0.05, "fp8": 0.25}[precision]
    assert manifests[0].parent.sha256 == open_bundle(small_bundle).sha256
    assert {manifest.precision for manifest in manifests} == {precision}


@pytest.mark.parametrize(
    ("target", "precision", "dtype", "size"),
    [
        ("cpu", "int8", "uint8", 1),
        ("openvino", "int8", "uint8", 1),
        ("tensorrt", "int8", "int8", 1),
        ("tensorrt", "fp8", "float16", 2),
    ],
)
def test_what_crosses_between_stages(
    small_quantized: Quantized, target: str, precision: str, dtype: str, size: int
) -> None:
    folder = small_quantized(target, precision, "streams")
    tensors = open_bundle(folder).manifest.tensors
    assert {name: spec.dtype for name, spec in tensors.items()} == {
        "image": "float32",
        "stream1": dtype,
        "stream2": dtype,
        "logits": "float32",
    }
    assert tensors["stream1"].size_bytes == 8 * 16 * 16 * size
    # Predictors give numbers, not integers.
    stream1 = BundlePredictor(folder).predict_tensors(images_for(folder))["stream1"]
    assert np.issubdtype(stream1.dtype, np.floating)
    if tensors["stream1"].scale is not None:
        steps = stream1 / np.float32(tensors["stream1"].scale)
        assert steps == pytest.approx(np.rint(steps), abs=1e-3)


@pytest.mark.parametrize(("target", "precision"), FORMS)
def test_files_hold_what_the_form_says(small_quantized: Quantized, target: str, precision: str) -> None:
    opened = open_bundle(small_quantized(target, precision, "whole"))
    model = onnx.load(opened.file_of("whole"))
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    weights = {kind for name, kind in types.items() if name.endswith("/weight")}
    assert weights == {onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.FLOAT8E4M3FN}
    floats = {kind for kind in types.values() if kind in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)}
    assert floats == {onnx.TensorProto.FLOAT16 if target == "tensorrt" else onnx.TensorProto.FLOAT}
    assert (onnx.TensorProto.INT32 in types.values()) == (target == "cpu")
    assert [entry.version for entry in model.opset_import] == [19]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["parnet_deploy.precision"] == precision
    assert metadata["parnet_deploy.parent_sha256"] == opened.manifest.parent.sha256


@pytest.mark.parametrize("partition", ["whole", "streams"])
@pytest.mark.parametrize("target", ["cpu", "openvino"])
@pytest.mark.parametrize("weight_bits", [7, 8])
def test_onnx_runtime_and_openvino_agree(
    small_quantized: Quantized, tmp_path: Path, target: str, partition: str, weight_bits: int
) -> None:
    bundle = small_quantized(target, "int8", partition, weight_bits)
    batch = images_for(bundle, 16)
    reference = BundlePredictor(bundle).predict(batch)
    for backend in ("onnxruntime", "openvino"):
        build_plan(bundle, tmp_path / backend, backend=backend)
        with open_predictor(tmp_path / backend) as predictor:
            # Engines sum integers exactly, the reference floats; where a sum lies between steps they round apart.
            difference = relative(reference, predictor.predict(batch))
            if difference >= 0.03 and saturating_form(open_bundle(bundle).manifest, backend, read_cpuinfo()[1]):
                pytest.xfail(f"sums of OpenVINO saturate on this processor, as its documentation says: {difference}")
            assert difference < 0.03


@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_weights_of_seven_bits(small_quantized: Quantized, small_bundle: Path, target: str) -> None:
    opened = open_bundle(small_quantized(target, "int8", "whole", 7))
    assert opened.manifest.quantization is not None
    assert opened.manifest.quantization.weight_bits == 7
    tensors = onnx.load(opened.file_of("whole")).graph.initializer
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in tensors if tensor.name.endswith("/weight")]
    assert {array.dtype for array in weights} == {np.dtype(np.int8)}
    # Each channel's largest is the grid's largest.
    assert {int(np.abs(channel.astype(int)).max()) for array in weights for channel in array} == {63}
    batch = images_for(opened.folder)
    expected = BundlePredictor(small_bundle).predict(batch)
    errors = [
        relative(expected, BundlePredictor(small_quantized(target, "int8", "whole", bits)).predict(batch))
        for bits in (7, 8)
    ]
    assert 1e-4 < errors[0] < 0.05
    assert errors[0] != errors[1]


def test_build_says_where_sums_may_saturate(
    small_quantized: Quantized, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes(flags: set[str], target: str, weight_bits: int, backend: str) -> str:
        monkeypatch.setattr("parnet_deploy.engines.cpu.read_cpuinfo", lambda: ("some CPU", frozenset(flags)))
        folder = small_quantized(target, "int8", "whole", weight_bits)
        assert run_app(["build", str(folder), "-o", str(tmp_path / "plan"), "--backend", backend, "--force"]) == 0
        return capsys.readouterr().err

    old, new = {"avx2"}, {"avx2", "avx_vnni"}
    for target in ("cpu", "openvino"):
        assert "no VNNI, and openvino's int8 sums may saturate" in notes(old, target, 8, "openvino")
        assert "saturate" not in notes(new, target, 8, "openvino")
        assert "saturate" not in notes(old, target, 7, "openvino")
    assert "saturate" not in notes(old, "cpu", 8, "onnxruntime")


@pytest.mark.parametrize("partition", ["whole", "streams"])
def test_tensorrt_builds_int8(small_quantized: Quantized, tmp_path: Path, partition: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="not installed: pip install 'parnet-deploy[tensorrt-rtx]'")
    bundle = small_quantized("tensorrt", "int8", partition)
    build_plan(bundle, tmp_path / "plan", backend="tensorrt", options=capabilities("86", "89"))
    stages, engines = open_bundle(bundle).manifest.stages, open_plan(tmp_path / "plan").manifest.engines
    for stage, engine in zip(stages, engines, strict=True):
        for ours, theirs in (
            ("Conv", "CONVOLUTION"),
            ("QuantizeLinear", "QUANTIZE"),
            ("DequantizeLinear", "DEQUANTIZE"),
        ):
            assert engine.layers[theirs] == stage.node_counts[ours]


@pytest.mark.parametrize("partition", ["whole", "streams"])
def test_tensorrt_builds_fp8_from_ada_on(small_quantized: Quantized, tmp_path: Path, partition: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="not installed: pip install 'parnet-deploy[tensorrt-rtx]'")
    bundle = small_quantized("tensorrt", "fp8", partition)
    build_plan(bundle, tmp_path / "plan", backend="tensorrt", options=capabilities("89", "120"))
    engines = open_plan(tmp_path / "plan").manifest.engines
    assert sum(engine.layers.get("QUANTIZE", 0) for engine in engines) > 0
    with pytest.raises(EngineError, match=r"in fp8, which needs compute capability 8\.9") as refused:
        build_plan(bundle, tmp_path / "ampere", backend="tensorrt", options=capabilities("86", "89"))
    assert "quantise with --precision int8" in str(refused.value)
    assert not (tmp_path / "ampere").exists()


@pytest.mark.parametrize(
    ("target", "backend", "remedy"),
    [
        ("cpu", "tensorrt", "quantise with --target tensorrt"),
        ("openvino", "tensorrt", "quantise with --target tensorrt"),
        ("tensorrt", "openvino", "quantise with --target cpu"),
        ("cpu", "ncnn", "build from the float32 bundle"),
    ],
)
def test_the_form_of_another_backend_is_refused(
    small_quantized: Quantized, tmp_path: Path, target: str, backend: str, remedy: str
) -> None:
    if backend == "tensorrt":
        pytest.importorskip("tensorrt_rtx", reason="not installed: pip install 'parnet-deploy[tensorrt-rtx]'")
    with pytest.raises(EngineError, match=f"quantised for {target}, and backend '{backend}'") as refused:
        build_plan(
            small_quantized(target, "int8", "whole"),
            tmp_path / "plan",
            backend=backend,
            options=capabilities("89") if backend == "tensorrt" else None,
        )
    assert remedy in str(refused.value)
    assert not (tmp_path / "plan").exists()


def test_the_reports_files_are_checked(small_quantized: Quantized, tmp_path: Path) -> None:
    import shutil

    copied = shutil.copytree(small_quantized("cpu", "int8", "whole"), tmp_path / "copy")
    (copied / "quantization.json").write_text("{}")
    with pytest.raises(ArtifactError, match="bytes where the manifest says"):
        open_bundle(copied)


def test_an_impossible_gate_writes_nothing(
    small_bundle: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["quantize", str(small_bundle), "--data", str(photographs), "-o", str(tmp_path / "out" / "int8")]
    assert run_app([*arguments, "--images", "8", "--max-drop", "-1", "--max-float-share", "0.1"]) == 1
    message = capsys.readouterr().err
    assert re.search(r"top-1 agreement with the float network drops by \d+\.\d\d points from 100.00% to ", message)
    # It was tried with more and more layers in float.
    assert re.search(r"with \d+ layers \(\d+% of the operations\) left in float; at most -1 may be lost", message)
    assert "nothing was written" in message
    assert not list(tmp_path.rglob("*.*"))


def test_what_cannot_be_quantised_is_refused(
    small_bundle: Path, small_quantized: Quantized, photographs: Path, tmp_path: Path
) -> None:
    data = str(photographs)
    with pytest.raises(QuantizationError, match="is int8 already"):
        quantize_bundle(small_quantized("cpu", "int8", "whole"), data, tmp_path / "out")
    with pytest.raises(QuantizationError, match="target 'cpu' has no fp8"):
        quantize_bundle(small_bundle, data, tmp_path / "out", QuantizeOptions(precision="fp8"))
    with pytest.raises(QuantizationError, match="processors have no float16 arithmetic"):
        quantize_bundle(small_bundle, data, tmp_path / "out", QuantizeOptions(float_precision="fp16"))
    with pytest.raises(OutputExistsError, match="would replace the bundle"):
        quantize_bundle(small_bundle, data, small_bundle, force=True)
    with pytest.raises(OutputExistsError):
        quantize_bundle(small_bundle, data, photographs)
    assert list(tmp_path.iterdir()) == []


def test_float32_beside_int8_for_tensorrt(small_bundle: Path, photographs: Path, tmp_path: Path) -> None:
    options: Any = QuantizeOptions(
        target="tensorrt", float_precision="fp32", method="min-max", images=8, max_drop=100, max_float_share=0
    )
    made = quantize_bundle(small_bundle, str(photographs), tmp_path / "out", options)
    assert made.quantization is not None
    assert made.quantization.float_precision == "fp32"
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "out" / "whole.onnx").graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT8}
