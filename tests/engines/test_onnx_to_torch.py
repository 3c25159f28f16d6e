"""Operators as torch functions, one by one against ONNX Runtime; and what is refused, naming the node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from parnet_deploy.engines import onnx_to_torch
from parnet_deploy.engines.onnx_to_torch import TorchGraph, torch_graph_from_onnx
from parnet_deploy.errors import EngineError

ELEMENTS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
# Of the largest number. float32: sums in another order. float16: both compute in float32; ONNX Runtime rounds to 11
# bits once, by half of 2^-10 at most, torch once or, where it adds a bias afterwards, twice.
TOLERANCES = {"float32": 1e-5, "float16": 1.5e-3}


@dataclass
class Case:
    """A node with what it reads: arrays that are given at each run, and constants of the file."""

    op: str
    inputs: Mapping[str, np.ndarray]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    made: str | None = None  # the element type of the outputs, where it is not that of the inputs

    def model(self) -> onnx.ModelProto:
        element = next(iter(self.inputs.values())).dtype.name
        names = [f"y{index}" for index in range(self.outputs)]
        read = [*self.inputs, *self.constants]
        node = helper.make_node(self.op, read, names, name="block/node", **self.attributes)
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(name, ELEMENTS[array.dtype.name], array.shape)
                for name, array in self.inputs.items()
            ],
            [helper.make_tensor_value_info(name, ELEMENTS[self.made or element], None) for name in names],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        for value in model.graph.output:
            # A model that is not right has no inferred shapes, and must have some to get past the checker.
            value.type.tensor_type.shape.SetInParent()
        return model


def translate(model: onnx.ModelProto) -> TorchGraph:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return torch_graph_from_onnx(path)


def check(case: Case) -> None:
    """Compare all of every output."""
    model = case.model()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, dict(case.inputs))
    graph = translate(model)
    assert graph.node_counts == {case.op: 1}
    with torch.inference_mode():
        found = graph.module(*(torch.from_numpy(case.inputs[name]) for name in graph.inputs))
    assert len(found) == len(expected) == case.outputs
    for result, wanted in zip(found, expected, strict=True):
        assert (result.numpy().dtype, tuple(result.shape)) == (wanted.dtype, wanted.shape)
        difference = np.abs(result.numpy().astype(np.float64) - wanted).max()
        assert difference <= TOLERANCES[case.inputs[next(iter(case.inputs))].dtype.name] * np.abs(wanted).max()


@st.composite
def arrays(draw: st.DrawFn, *shape: int, dtype: str, positive: bool = False) -> np.ndarray:
    """Normal numbers of a seed that is drawn."""
    made = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).standard_normal(shape)
    return (np.abs(made) + 0.1 if positive else made).astype(dtype)


DTYPES = st.sampled_from(["float32", "float16"])
SIZES = st.integers(1, 5)
SHAPES = st.lists(SIZES, min_size=1, max_size=4)


# Of a window: its size, stride, dilation and padding.
WINDOW = (st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2))


@st.composite
def without_some_defaults(
    draw: st.DrawFn, attributes: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Leave out some of the attributes that are what they are without being there."""
    return {
        name: value
        for name, value in attributes.items()
        if name not in defaults or value != defaults[name] or draw(st.booleans())
    }


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    dtype, groups = draw(DTYPES), draw(st.integers(1, 3))
    into, out = draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel, stride, dilation, padding = (draw(st.tuples(sizes, sizes)) for sizes in WINDOW)
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    shape = [size + draw(st.integers(0, 4)) for size in least]
    weight = draw(arrays(out, into, *kernel, dtype="float32")) / math.sqrt(into * math.prod(kernel))
    constants = {"w": weight.astype(dtype)}
    if draw(st.booleans()):
        constants["b"] = draw(arrays(out, dtype=dtype))
    attributes = {"group": groups, "strides": stride, "dilations": dilation, "pads": (*padding, *padding)}
    attributes |= {"kernel_shape": kernel, "auto_pad": "NOTSET"}
    defaults = {"group": 1, "strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4}
    defaults |= {"kernel_shape": kernel, "auto_pad": "NOTSET"}
    image = draw(arrays(draw(SIZES), groups * into, *shape, dtype=dtype))
    return Case("Conv", {"x": image}, constants, draw(without_some_defaults(attributes, defaults)))


@st.composite
def average_pools(draw: st.DrawFn) -> Case:
    kernel, stride = (draw(st.tuples(sizes, sizes)) for sizes in WINDOW[:2])
    padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    shape = [draw(st.integers(size, 9)) for size in kernel]
    attributes = {"kernel_shape": kernel, "strides": stride, "pads": (*padding, *padding), "ceil_mode": 0}
    attributes["count_include_pad"] = draw(st.integers(0, 1))
    defaults = {"strides": (1, 1), "pads": (0,) * 4, "ceil_mode": 0, "count_include_pad": 0}
    image = draw(arrays(draw(SIZES), draw(SIZES), *shape, dtype=draw(DTYPES)))
    return Case("AveragePool", {"x": image}, {}, draw(without_some_defaults(attributes, defaults)))


@st.composite
def batch_normalizations(draw: st.DrawFn) -> Case:
    dtype, shape = draw(DTYPES), [draw(SIZES), draw(SIZES), *draw(st.lists(SIZES, max_size=2))]
    statistics = {name: draw(arrays(shape[1], dtype=dtype)) for name in ("scale", "shift", "mean")}
    statistics["variance"] = draw(arrays(shape[1], dtype=dtype, positive=True))
    attributes = {"epsilon": draw(st.sampled_from([1e-5, 1e-2])), "momentum": 0.5, "training_mode": 0}
    kept = {name: value for name, value in attributes.items() if draw(st.booleans())}
    return Case("BatchNormalization", {"x": draw(arrays(*shape, dtype=dtype))}, statistics, kept)


@st.composite
def products(draw: st.DrawFn) -> Case:
    dtype, (rows, inner, columns) = draw(DTYPES), [draw(SIZES) for _ in range(3)]
    is_transposed = draw(st.booleans())
    weight = draw(arrays(*((columns, inner) if is_transposed else (inner, columns)), dtype=dtype))
    constants = {"w": (weight / math.sqrt(inner)).astype(dtype)}
    bias = draw(st.sampled_from([None, (1,), (columns,), (1, columns), (rows, 1), (rows, columns)]))
    if bias is not None:
        constants["b"] = draw(arrays(*bias, dtype=dtype))
    attributes = {"transB": 1} if is_transposed else draw(st.sampled_from([{}, {"transB": 0, "alpha": 1.0}]))
    return Case("Gemm", {"x": draw(arrays(rows, inner, dtype=dtype))}, constants, attributes)


@st.composite
def elementwise(draw: st.DrawFn) -> Case:
    """Two tensors of which either may be broadcast, by axes of one or by missing ones, and either be a constant."""
    dtype, shape = draw(DTYPES), draw(SHAPES)
    thin = [draw(st.sampled_from([1, size])) for size in shape][draw(st.integers(0, len(shape))) :]
    values = {"a": draw(arrays(*shape, dtype=dtype)), "b": draw(arrays(*thin, dtype=dtype))}
    if draw(st.booleans()):
        values = dict(reversed(values.items()))
    first, second = values
    op = draw(st.sampled_from(["Add", "Mul"]))
    if draw(st.booleans()):
        return Case(op, values)
    return Case(op, {first: values[first]}, {second: values[second]})


@st.composite
def concatenations(draw: st.DrawFn) -> Case:
    dtype, shape = draw(DTYPES), draw(SHAPES)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    inputs = {}
    for index in range(draw(st.integers(1, 4))):
        shape[axis] = draw(SIZES)
        inputs[f"x{index}"] = draw(arrays(*shape, dtype=dtype))
    return Case("Concat", inputs, attributes={"axis": axis})


@st.composite
def splits(draw: st.DrawFn) -> Case:
    shape, count = draw(SHAPES), draw(st.integers(1, 3))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    # The last part may be smaller, and is never empty.
    part = draw(st.integers(1, 3))
    shape[axis] = part * count - draw(st.integers(0, part - 1))
    if math.ceil(shape[axis] / count) * (count - 1) >= shape[axis]:
        shape[axis] = part * count
    attributes = {"num_outputs": count, "axis": axis}
    return Case("Split", {"x": draw(arrays(*shape, dtype=draw(DTYPES)))}, attributes=attributes, outputs=count)


@st.composite
def reshapes(draw: st.DrawFn) -> Case:
    shape = draw(SHAPES)
    target = draw(st.permutations(shape)) + draw(st.sampled_from([[], [1]]))
    if draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] = -1
    attributes = draw(st.sampled_from([{}, {"allowzero": 0}, {"allowzero": 1}]))
    return Case("Reshape", {"x": draw(arrays(*shape, dtype=draw(DTYPES)))}, {"shape": np.array(target)}, attributes)


@st.composite
def rearrangements(draw: st.DrawFn) -> Case:
    shape = draw(SHAPES)
    inputs = {"x": draw(arrays(*shape, dtype=draw(DTYPES)))}
    if draw(st.booleans()):
        return Case("Transpose", inputs, attributes={"perm": draw(st.permutations(range(len(shape))))})
    axis = draw(st.integers(-len(shape) - 1, len(shape)))
    return Case("Unsqueeze", inputs, {"axes": np.array([axis])})


@st.composite
def simple_ones(draw: st.DrawFn) -> Case:
    """Operators of one tensor, with one attribute at most."""
    op, dtype = draw(st.sampled_from(["Relu", "Sigmoid", "Cast", "Flatten", "GlobalAveragePool"])), draw(DTYPES)
    least = {"Flatten": 2, "GlobalAveragePool": 3}.get(op, 1)
    shape = draw(st.lists(SIZES, min_size=least, max_size=5))
    inputs = {"x": draw(arrays(*shape, dtype=dtype))}
    if op == "Cast":
        made = draw(DTYPES)
        return Case(op, inputs, attributes={"to": ELEMENTS[made]}, made=made)
    attributes = draw(st.sampled_from([{}, {"axis": 1}])) if op == "Flatten" else {}
    return Case(op, inputs, attributes=attributes)


@settings(max_examples=120)
@pytest.mark.parametrize(
    "cases",
    [
        convolutions,
        average_pools,
        batch_normalizations,
        products,
        elementwise,
        concatenations,
        splits,
        reshapes,
        rearrangements,
        simple_ones,
    ],
)
@given(data=st.data())
def test_operators_are_those_of_onnx_runtime(cases: Callable[[], st.SearchStrategy[Case]], data: st.DataObject) -> None:
    check(data.draw(cases()))


IMAGE = np.zeros((1, 4, 6, 6), np.float32)
WEIGHT = np.zeros((4, 4, 3, 3), np.float32)


def conv(**attributes: Any) -> Case:
    return Case("Conv", {"x": IMAGE}, {"w": WEIGHT}, attributes)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("Softmax", {"x": IMAGE}), "no such operator is known here"),
        (conv(pads=[0, 1, 1, 0]), r"uneven padding \[0, 1, 1, 0\]"),
        (conv(auto_pad="SAME_UPPER"), "attribute 'auto_pad' is b'SAME_UPPER', and only b'NOTSET' is known here"),
        (conv(kernel_shape=[1, 1]), r"attribute 'kernel_shape' is \[1, 1\], and only \[3, 3\]"),
        (Case("Conv", {"x": IMAGE[0]}, {"w": WEIGHT[0]}), "a window over 1 axes"),
        (Case("Conv", {"x": IMAGE, "w": WEIGHT}), "input 'w' is computed, and has to be a constant"),
        (Case("AveragePool", {"x": IMAGE}, {}, {"kernel_shape": [2, 2], "ceil_mode": 1}), "attribute 'ceil_mode' is 1"),
        (Case("AveragePool", {"x": IMAGE[0]}, {}, {"kernel_shape": [2]}), "a window over 1 axes"),
        (Case("Cast", {"x": IMAGE}, {}, {"to": TensorProto.INT64}), "a cast to another type"),
        (Case("Flatten", {"x": IMAGE}, {}, {"axis": 2}), "attribute 'axis' is 2"),
        (
            Case("Gemm", {"x": IMAGE[0, 0]}, {"w": IMAGE[0, 0]}, {"alpha": 0.5}),
            "attribute 'alpha' is 0.5, and",
        ),
        (Case("Gemm", {"x": IMAGE[0, 0]}, {"w": IMAGE[0, 0]}, {"beta": 0.5}), "attribute 'beta' is 0.5"),
        (Case("Gemm", {"x": IMAGE[0, 0]}, {"w": IMAGE[0, 0]}, {"transA": 1}), "attribute 'transA' is 1"),
        (Case("Reshape", {"x": IMAGE}, {"s": np.array([0, -1])}), r"a zero in the shape \[0, -1\]"),
        (Case("Split", {"x": IMAGE}, {"s": np.array([1, 3])}, {"axis": 1}, 2), "sizes of the parts"),
        (Case("Split", {"x": IMAGE}, {}, {"axis": 1, "num_outputs": 3}, 2), "2 outputs, not 3"),
        (Case("Transpose", {"x": IMAGE}), "attribute 'perm' is missing"),
        (Case("Unsqueeze", {"x": IMAGE}, {"a": np.array([0, 1])}), r"axes \[0, 1\], and only one"),
        (
            Case("BatchNormalization", {"x": IMAGE}, dict.fromkeys("abcd", IMAGE[0, :, 0, 0]), {"training_mode": 1}),
            "attribute 'training_mode' is 1",
        ),
    ],
)
def test_what_is_not_known_is_refused_naming_the_node(case: Case, message: str) -> None:
    with pytest.raises(EngineError, match=rf"model\.onnx: node 'block/node' \({case.op}\): {message}"):
        translate(case.model())


def test_attributes_that_the_operator_does_not_have_are_refused() -> None:
    model = Case("Relu", {"x": IMAGE}).model()
    model.graph.node[0].attribute.append(helper.make_attribute("saturate", 0))
    with pytest.raises(EngineError, match=r"Unrecognized attribute: saturate for operator Relu .* Name: block/node"):
        translate(model)


def test_an_attribute_that_an_operator_forgets_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnx_to_torch._OPERATORS, "Concat", lambda node: node.call(torch.cat, node.tensors()))
    with pytest.raises(EngineError, match="attribute 'axis' is not known here"):
        translate(Case("Concat", {"x": IMAGE, "z": IMAGE}, {}, {"axis": 2}).model())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", TensorProto.DOUBLE), "'x' is neither"),
        (lambda m: m.opset_import[0].__setattr__("version", 17), r"operators of {'ai.onnx': 17}"),
        (lambda m: m.opset_import.append(helper.make_opsetid("com.microsoft", 1)), "operators of .*com.microsoft"),
        (lambda m: m.graph.node[0].__setattr__("domain", "com.microsoft"), "com.microsoft"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "nowhere"), "nowhere"),
        (lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([1, 2]), "w")), "tensor 'w' is no"),
        (lambda m: m.graph.initializer[0].__setattr__("raw_data", b"abc"), "raw_data size"),
        (
            lambda m: m.graph.initializer[0].CopyFrom(TensorProto(name="w", dims=[2], data_type=1, float_data=[0] * 5)),
            "weight 'w' cannot be read",
        ),
        (lambda m: m.ClearField("graph"), "no ONNX model that can be read"),
    ],
)
def test_other_models_are_refused(change: Callable[[onnx.ModelProto], object], message: str) -> None:
    model = Case("Add", {"x": IMAGE}, {"w": IMAGE}).model()
    change(model)
    with pytest.raises(EngineError, match=message) as caught:
        translate(model)
    assert caught.value.where is not None
    assert caught.value.where.endswith("model.onnx")


def test_weights_in_other_files_are_not_read(tmp_path: Path) -> None:
    model = Case("Add", {"x": IMAGE}, {"w": IMAGE}).model()
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").exists()
    with pytest.raises(EngineError, match="weights outside the file, such as 'w', are not read"):
        torch_graph_from_onnx(tmp_path / "m.onnx")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no ONNX model that can be read"):
        torch_graph_from_onnx(tmp_path / "absent.onnx")


@given(data=st.data())
@settings(max_examples=300)
def test_a_damaged_file_is_an_error_or_still_a_model(data: st.DataObject) -> None:
    """Cut off or with a byte changed, anywhere: nothing but `EngineError` comes out of it."""
    content = bytearray(conv(pads=[1, 1, 1, 1]).model().SerializeToString())
    # Most of it is weights, so the places that matter are at its ends.
    edge = st.integers(0, 120) | st.integers(len(content) - 120, len(content) - 1)
    at = data.draw(edge | st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] = data.draw(st.integers(0, 255))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(content)
        with suppress(EngineError):
            assert len(torch_graph_from_onnx(path).outputs) == 1


def test_names_in_the_file_do_not_become_code() -> None:
    """Modules are made by generating Python; a name of a tensor has no part in it."""
    name = "x): raise SystemExit\n#"
    model = Case("Relu", {name: IMAGE}).model()
    graph = translate(model)
    assert list(graph.inputs) == [name]
    assert "SystemExit" not in graph.module.code
    assert graph.module(torch.ones(1, 4, 6, 6))[0].sum() == 144


def test_a_weight_that_several_nodes_read_is_one_buffer() -> None:
    model = Case("Add", {"x": IMAGE}, {"w": IMAGE + 2}).model()
    model.graph.node.append(helper.make_node("Mul", ["y0", "w"], ["z"]))
    model.graph.output[0].name = "z"
    graph = translate(model)
    assert len(list(graph.module.buffers())) == 1
    assert not list(graph.module.parameters())
    assert (graph.module(torch.from_numpy(IMAGE))[0] == 4).all()
