"""ONNX operators as ncnn layers: each against ONNX Runtime, with drawn shapes and attributes, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from parnet_deploy.engines import ncnn_layers
from parnet_deploy.engines.ncnn_model import convert_to_ncnn
from parnet_deploy.errors import EngineError

ncnn = pytest.importorskip("ncnn")

# Winograd F(4,3) in float32: measured at most 1.6e-6 over 1,500 draws of standard normal numbers (F(6,3): 1.1e-5).
WINOGRAD = 4e-6
EXACT = 2e-6
Shapes = dict[str, tuple[int, ...]]
drawn = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def save(
    path: Path, nodes: list[onnx.NodeProto], inputs: Shapes, outputs: list[str], constants: dict[str, np.ndarray]
) -> Path:
    graph = helper.make_graph(
        nodes,
        "operators",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, *shape]) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path / "model.onnx")
    return path / "model.onnx"


def check(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: Shapes,
    outputs: list[str],
    constants: dict[str, np.ndarray],
    bound: float = EXACT,
) -> str:
    """Compare ncnn with ONNX Runtime on random numbers, and return ncnn's text."""
    path = save(folder, nodes, inputs, outputs, constants)
    values = {name: random(index + 100, 1, *shape) for index, (name, shape) in enumerate(inputs.items())}
    expected = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(outputs, values)
    model = convert_to_ncnn(path)
    (folder / "model.bin").write_bytes(model.weights + bytes(16))
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    net.opt.use_winograd63_convolution = False
    assert net.load_param_mem(model.param) == 0
    assert net.load_model(str(folder / "model.bin")) == 0
    extractor = net.create_extractor()
    for name, value in values.items():
        sample = value[0].reshape(-1) if value.shape[2:] == (1, 1) else value[0]
        extractor.input(name, ncnn.Mat(sample).clone())
    for name, wanted in zip(outputs, expected, strict=True):
        status, mat = extractor.extract(name)
        assert status == 0
        found = np.asarray(mat).reshape(wanted.shape)
        assert np.abs(found - wanted).max() <= bound * max(np.abs(wanted).max(), 1e-3)
    return model.param


@drawn
@given(
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    size=st.tuples(st.integers(2, 30), st.integers(2, 30)),
    biased=st.booleans(),
    activation=st.sampled_from([None, "Relu", "Sigmoid"]),
    seed=st.integers(0, 1000),
)
def test_convolutions(
    tmp_path: Path,
    groups: int,
    kernel: int,
    stride: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    biased: bool,
    activation: str | None,
    seed: int,
) -> None:
    width_in, width_out = channels[0] * groups, channels[1] * groups
    weight = random(seed, width_out, channels[0], kernel, kernel) / (channels[0] * kernel * kernel) ** 0.5
    constants = {"w": weight.astype(np.float32)} | ({"b": random(seed + 1, width_out)} if biased else {})
    pads, strides = [kernel // 2] * 4, [stride, stride]
    nodes = [helper.make_node("Conv", ["x", *constants], ["y"], group=groups, pads=pads, strides=strides)]
    if activation is not None:
        nodes.append(helper.make_node(activation, ["y"], ["z"]))
    output = "y" if activation is None else "z"
    text = check(tmp_path, nodes, {"x": (width_in, *size)}, [output], constants, WINOGRAD)
    # The activation is the convolution's own, also where that is two and a concatenation.
    kinds = [line.split()[0] for line in text.splitlines()[3:]]
    assert kinds == (["Convolution"] if groups == 1 else ["Slice", "Convolution", "Convolution", "Concat"])


@pytest.mark.parametrize(("filters", "groups", "parts"), [(100, 1, [64, 36]), (96, 1, [48, 48]), (96, 2, [48, 48])])
def test_large_convolutions_are_computed_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filters: int, groups: int, parts: list[int]
) -> None:
    weight = random(1, filters, 8 // groups, 3, 3)
    monkeypatch.setattr(ncnn_layers, "_LARGEST_BYTES", weight[:51].nbytes)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["sum"], pads=[1] * 4, group=groups),
        helper.make_node("Relu", ["sum"], ["y"]),
    ]
    text = check(tmp_path, nodes, {"x": (8, 9, 7)}, ["y"], {"w": weight, "b": random(2, filters)}, WINOGRAD)
    found = [line.split() for line in text.splitlines() if line.startswith("Convolution ")]
    assert [next(word for word in words if word.startswith("0=")) for words in found] == [f"0={n}" for n in parts]


def run_convolution(folder: Path, text: str, image: np.ndarray, *, f43: bool) -> np.ndarray:
    net = ncnn.Net()
    net.opt.num_threads = 1
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "winograd63_convolution"):
        setattr(net.opt, f"use_{name}", False)
    net.opt.use_winograd43_convolution = f43
    assert net.load_param_mem(text) == 0
    assert net.load_model(str(folder / "model.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("x", ncnn.Mat(image).clone())
    return np.array(extractor.extract("y")[1])


@pytest.mark.parametrize("width", [32, 64, 96, 160, 320, 640])
def test_a_hint_at_a_small_map_gives_f23_on_any_map(tmp_path: Path, width: int) -> None:
    """By the bits: F(2,3) and F(4,3) round differently."""
    constants = {"w": random(1, width, width, 3, 3)}
    path = save(
        tmp_path,
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        {"x": (width, 28, 28)},
        ["y"],
        constants,
    )
    hinted, plain = convert_to_ncnn(path, memory_factor=1.0), convert_to_ncnn(path, memory_factor=4.1)
    (tmp_path / "model.bin").write_bytes(plain.weights + bytes(16))
    image = random(2, width, 28, 28)
    only_f23 = run_convolution(tmp_path, plain.param, image, f43=False)
    np.testing.assert_array_equal(run_convolution(tmp_path, hinted.param, image, f43=True), only_f23)
    assert (run_convolution(tmp_path, plain.param, image, f43=True) != only_f23).any()


@drawn
@given(
    op=st.sampled_from(["Add", "Mul"]),
    channels=st.integers(1, 20),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kinds=st.tuples(st.sampled_from(["map", "vector"]), st.sampled_from(["map", "vector", "constant", "border"])),
)
def test_sums_and_products_of_maps_and_vectors(
    tmp_path: Path, op: str, channels: int, size: tuple[int, int], kinds: tuple[str, str]
) -> None:
    """Also where a map is as wide as it has channels, and a vector could be taken for a row of it."""
    size = (channels, channels) if size[0] % 3 == 0 else size
    shapes = {"map": (channels, *size), "vector": (channels, 1, 1), "constant": (channels, 1, 1)}
    shapes["border"] = shapes["map"]
    constants = {"b": random(3, 1, *shapes[kinds[1]])} if kinds[1] in ("constant", "border") else {}
    inputs = {"a": shapes[kinds[0]]} | ({} if constants else {"b": shapes[kinds[1]]})
    for order in (["a", "b"], ["b", "a"]):
        check(tmp_path, [helper.make_node(op, order, ["y"])], inputs, ["y"], constants)


@drawn
@given(channels=st.integers(1, 30), size=st.tuples(st.integers(2, 20), st.integers(2, 20)), groups=st.integers(1, 2))
def test_skip_squeeze_excitation(tmp_path: Path, channels: int, size: tuple[int, int], groups: int) -> None:
    """The gate is a vector all the way, in one group or two; the sum goes through SiLU."""
    width = channels * groups
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pool"]),
        helper.make_node("Conv", ["pool", "w", "c"], ["gate/sum"], group=groups),
        helper.make_node("Sigmoid", ["gate/sum"], ["gate"]),
        helper.make_node("Mul", ["gate", "a"], ["scale"]),
        helper.make_node("Mul", ["x", "scale"], ["skip"]),
        helper.make_node("Add", ["skip", "y"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["sum/sigmoid"]),
        helper.make_node("Mul", ["sum", "sum/sigmoid"], ["out"]),
    ]
    constants = {"w": random(1, width, channels, 1, 1), "c": random(2, width), "a": random(3, width, 1, 1)}
    text = check(tmp_path, nodes, {"x": (width, *size), "y": (width, *size)}, ["out", "gate"], constants, 4 * EXACT)
    kinds = [line.split()[0] for line in text.splitlines()[2:]]
    assert kinds.count("InnerProduct") == kinds.count("Swish") == 1
    assert "Convolution" not in kinds
    assert "Sigmoid" not in kinds


@drawn
@given(half=st.integers(1, 12), size=st.integers(2, 15), classes=st.integers(1, 9), transposed=st.booleans())
def test_split_and_head(tmp_path: Path, half: int, size: int, classes: int, transposed: bool) -> None:
    weight = random(4, half, classes)
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["first", "second"], axis=1),
        helper.make_node("Mul", ["first", "second"], ["product"]),
        helper.make_node("GlobalAveragePool", ["product"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=int(transposed)),
    ]
    constants = {
        "sizes": np.array([half, half]),
        "w": np.ascontiguousarray(weight.T) if transposed else weight,
        "b": random(5, classes),
    }
    check(tmp_path, nodes, {"x": (2 * half, size, size)}, ["logits"], constants, 4 * EXACT)


def test_an_output_that_is_read_on_stays_an_output(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "z"], ["a"]), helper.make_node("Mul", ["a", "x"], ["y"])]
    for outputs in (["y", "a"], ["a", "y"]):
        check(tmp_path, nodes, {"x": (4, 5, 6), "z": (4, 5, 6)}, outputs, {})


def test_an_activation_of_its_own_stays_one(tmp_path: Path) -> None:
    for op in ("Relu", "Sigmoid"):
        check(tmp_path, [helper.make_node(op, ["x"], ["y"])], {"x": (4, 5, 6)}, ["y"], {})
    # A convolution whose sum is read elsewhere too does not apply the activation.
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["relu"]),
        helper.make_node("Add", ["sum", "relu"], ["y"]),
    ]
    check(tmp_path, nodes, {"x": (4, 5, 6)}, ["y"], {"w": random(1, 4, 4, 1, 1)})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (helper.make_node("Tanh", ["x"], ["y"], name="n"), r"node 'n' \(Tanh\) is no operator of a fused network"),
        (helper.make_node("Conv", ["x", "w"], ["y"], name="n", dilations=[2, 2]), "is dilated"),
        (helper.make_node("Conv", ["x", "w"], ["y"], name="n", auto_pad="SAME_UPPER"), "pads by itself"),
        (helper.make_node("Conv", ["x", "x"], ["y"], name="n"), "computes its input 'x'"),
        (helper.make_node("Split", ["x", "s"], ["y", "z"], name="n", axis=2), "does not split channels"),
        (helper.make_node("Flatten", ["x"], ["y"], name="n", axis=2), "flattens more than a sample"),
        (helper.make_node("Gemm", ["x", "v"], ["y"], name="n", alpha=2.0), "is no plain linear layer"),
        (helper.make_node("Add", ["x", "odd"], ["y"], name="n"), r"has a constant of shape \[7\]"),
        (helper.make_node("Cast", ["x"], ["y"], name="n", to=TensorProto.FLOAT16), "casts to something else"),
        (helper.make_node("Relu", ["x"], ["y"], name="n", slope=1.0), "has the attribute 'slope'"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, node: onnx.NodeProto, message: str) -> None:
    constants = {"w": random(1, 4, 4, 1, 1), "v": random(1, 4, 4), "odd": random(1, 7), "s": np.array([2, 3])}
    path = save(tmp_path, [node], {"x": (4, 5, 7)}, ["y"], constants)
    with pytest.raises(EngineError, match=message) as caught:
        convert_to_ncnn(path)
    assert caught.value.where == str(path)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff\xffnothing")
    with pytest.raises(EngineError, match="not an ONNX file"):
        convert_to_ncnn(tmp_path / "bad.onnx")
