"""Backends: what they build and refuse, and that engines work in place on bound arrays."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from parnet_deploy.artifacts.schemas import BatchRange, Lane, Stage, TensorSpec
from parnet_deploy.engines import BACKEND_NAMES, get_backend
from parnet_deploy.engines.base import StageSpec, check_binding
from parnet_deploy.engines.cpu import cpu_record
from parnet_deploy.errors import EngineError, MissingDependencyError
from tests.engines import toy_bundles

LANE = Lane(device="cpu")
FIXED = BatchRange(min=2, opt=2, max=2)


def spec_of(stage: Stage, precision: str = "fp32", batch: BatchRange = FIXED) -> StageSpec:
    tensors = toy_bundles.toy_tensors(precision)
    return StageSpec(
        name=stage.name,
        inputs={name: tensors[name] for name in stage.inputs},
        outputs={name: tensors[name] for name in stage.outputs},
        batch=batch,
        lane=LANE,
        threads=1,
        is_alone=True,
    )


def arrays_of(tensors: dict[str, TensorSpec], batch: int) -> dict[str, np.ndarray]:
    return {name: np.zeros((batch, *tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", ["whole", "chain", "diamond"])
def test_a_saved_engine_gives_the_numbers_of_a_fresh_session(tmp_path: Path, cut: str, precision: str) -> None:
    """Saving the optimised graph and loading it unoptimised changes no bit, in fp16 (with its casts) neither."""
    import onnxruntime

    backend = get_backend("onnxruntime")
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", cut, precision, FIXED)
    random = np.random.default_rng(0)
    for stage in toy_bundles.CUTS[cut]:
        spec = spec_of(stage, precision)
        source, saved = bundle / f"{stage.name}.onnx", tmp_path / f"{stage.name}.onnx"
        backend.build(source, spec, saved)
        inputs, outputs = arrays_of(spec.inputs, 2), arrays_of(spec.outputs, 2)
        for array in inputs.values():
            array[...] = random.standard_normal(array.shape)
        backend.load(saved, spec).bind(inputs, outputs).run()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        fresh = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        for name, expected in zip(outputs, fresh.run(list(outputs), inputs), strict=True):
            assert expected.any()
            np.testing.assert_array_equal(outputs[name], expected)


def test_bound_arrays_are_used_in_place(tmp_path: Path) -> None:
    backend = get_backend("onnxruntime")
    stage = toy_bundles.CUTS["whole"][0]
    spec = spec_of(stage)
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", "whole", "fp32", FIXED)
    backend.build(bundle / "whole.onnx", spec, tmp_path / "whole.onnx")
    engine = backend.load(tmp_path / "whole.onnx", spec)
    image = np.ones((2, *spec.inputs["image"].shape), np.float32)
    first, second = np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32)
    one, two = engine.bind({"image": image}, {"logits": first}), engine.bind({"image": image}, {"logits": second})
    one.run()
    kept = first.copy()
    assert kept.any()
    assert not second.any()
    image *= 2
    two.run()
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(second, kept)


def test_bound_arrays_live_as_long_as_their_engine(tmp_path: Path) -> None:
    """The binding holds addresses, so freed arrays would be written to."""
    backend = get_backend("onnxruntime")
    spec = spec_of(toy_bundles.CUTS["whole"][0])
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", "whole", "fp32", FIXED)
    backend.build(bundle / "whole.onnx", spec, tmp_path / "whole.onnx")
    inputs, outputs = arrays_of(dict(spec.inputs), 2), arrays_of(dict(spec.outputs), 2)
    alive = [weakref.ref(array) for array in (*inputs.values(), *outputs.values())]
    bound = backend.load(tmp_path / "whole.onnx", spec).bind(inputs, outputs)
    del inputs, outputs
    gc.collect()
    assert all(reference() is not None for reference in alive)
    del bound
    gc.collect()
    assert all(reference() is None for reference in alive)


def test_null_engines_leave_their_outputs_alone(tmp_path: Path) -> None:
    backend = get_backend("null")
    spec = spec_of(toy_bundles.CUTS["whole"][0])
    backend.build(tmp_path / "any.onnx", spec, tmp_path / "engine.null")
    assert (tmp_path / "engine.null").read_bytes() == b""
    outputs = {"logits": np.full((2, 5), 3, np.float32)}
    engine = backend.load(tmp_path / "engine.null", spec)
    engine.bind(arrays_of(dict(spec.inputs), 2), outputs).run()
    assert (outputs["logits"] == 3).all()
    engine.close()


def test_devices_of_the_backends() -> None:
    assert get_backend("onnxruntime").device_records(["cpu"]) == (cpu_record(),)
    with pytest.raises(EngineError, match="not on cuda:0"):
        get_backend("onnxruntime").device_records(["cuda:0"])
    records = get_backend("null").device_records(["cpu", "cuda:1"])
    assert [(record.device, record.capability) for record in records] == [("cpu", "any"), ("cuda:1", "any")]


def test_every_backend_is_found_by_its_name() -> None:
    # The others only where they are installed: test_tensorrt.py, test_onnxruntime_cuda.py.
    names = [name for name in BACKEND_NAMES if name not in ("tensorrt", "onnxruntime-cuda")]
    assert [get_backend(name).name for name in names] == names
    with pytest.raises(EngineError, match="no backend 'tensorflow'") as caught:
        get_backend("tensorflow")
    assert "onnxruntime, onnxruntime-cuda, tensorrt, torch, ncnn, openvino, null" in str(caught.value)


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "parnet_deploy.engines.onnxruntime", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="needs the package 'onnxruntime'") as caught:
        get_backend("onnxruntime")
    assert caught.value.remedy == "pip install 'parnet-deploy[onnxruntime]'"


def test_a_file_that_is_no_graph_is_refused_naming_the_stage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "whole.onnx"
    path.write_bytes(b"not a model")
    spec = spec_of(toy_bundles.CUTS["whole"][0])
    with pytest.raises(EngineError, match="cannot load stage 'whole'") as caught:
        get_backend("onnxruntime").load(path, spec)
    assert caught.value.where == str(path)
    with pytest.raises(EngineError, match="cannot optimise stage 'whole'"):
        get_backend("onnxruntime").build(path, spec, tmp_path / "out.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("stage", "precision", "batch", "message"),
    [
        (Stage(name="s", inputs=("stem",), outputs=("logits",)), "fp32", 2, r"has tensors \['image'\]"),
        (Stage(name="s", inputs=("image",), outputs=("left",)), "fp32", 2, r"has tensors \['logits'\]"),
        (Stage(name="s", inputs=("image",), outputs=("logits",)), "fp32", 3, r"'image' is tensor\(float\)\[2, 3, 16"),
    ],
)
def test_a_graph_that_differs_from_the_manifest_is_refused(
    tmp_path: Path, stage: Stage, precision: str, batch: int, message: str
) -> None:
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", "whole", "fp32", FIXED)
    spec = spec_of(stage, precision, BatchRange(min=batch, opt=batch, max=batch))
    with pytest.raises(EngineError, match=message):
        get_backend("onnxruntime").build(bundle / "whole.onnx", spec, tmp_path / "out.onnx")


def test_a_graph_of_another_precision_is_refused(tmp_path: Path) -> None:
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", "chain", "fp32", FIXED)
    spec = spec_of(toy_bundles.CUTS["chain"][0], "fp16")
    with pytest.raises(EngineError, match=r"'stem' is tensor\(float\).*float16"):
        get_backend("onnxruntime").build(bundle / "stem.onnx", spec, tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"other": a["image"]}, "other tensors"),
        (lambda a: {"image": a["image"].astype(np.float64)}, "'image' is not float32"),
        (lambda a: {"image": a["image"][:, :, ::2]}, "'image' is not float32"),
        (lambda a: {"image": np.asfortranarray(a["image"])}, "'image' is not float32"),
        (lambda a: {"image": a["image"][:1]}, "batch sizes"),
        (lambda a: {"image": a["image"][0, 0, 0, 0].reshape(())}, "batch sizes"),
    ],
)
def test_arrays_that_do_not_fit_never_reach_native_code(change: object, message: str) -> None:
    spec = spec_of(toy_bundles.CUTS["whole"][0])
    inputs, outputs = arrays_of(dict(spec.inputs), 2), arrays_of(dict(spec.outputs), 2)
    check_binding(spec, inputs, outputs)
    with pytest.raises(EngineError, match=message):
        check_binding(spec, change(inputs), outputs)  # type: ignore[operator]


def test_a_batch_size_out_of_range_is_refused() -> None:
    spec = spec_of(toy_bundles.CUTS["whole"][0])
    with pytest.raises(EngineError, match=r"batch sizes \[3\]"):
        check_binding(spec, arrays_of(dict(spec.inputs), 3), arrays_of(dict(spec.outputs), 3))


def test_a_stage_that_fails_while_it_runs_names_itself_and_prints_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The index into a table of two is computed from the data, so only some data is out of range."""
    table = helper.make_tensor("table", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [table],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "g.onnx")
    four = TensorSpec(dtype="float32", shape=(4,))
    spec = StageSpec("lookup", {"x": four}, {"y": four}, BatchRange(), LANE, 1, is_alone=True)
    backend = get_backend("onnxruntime")
    backend.build(tmp_path / "g.onnx", spec, tmp_path / "e.onnx")
    x, y = np.zeros((1, 4), np.float32), np.zeros((1, 4), np.float32)
    bound = backend.load(tmp_path / "e.onnx", spec).bind({"x": x}, {"y": y})
    bound.run()
    assert (y == 1).all()
    x[0, 2] = 9
    with pytest.raises(EngineError, match="cannot run stage 'lookup'"):
        bound.run()
    x[...] = 1
    bound.run()
    assert (y == 2).all()
    assert capfd.readouterr() == ("", "")
