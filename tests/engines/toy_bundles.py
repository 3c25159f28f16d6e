"""Small bundles made with onnx.helper: a stem, two branches and a join, cut in several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.schemas import (
    BatchRange,
    Bundle,
    BundleStage,
    FileRecord,
    NetworkConfig,
    Parent,
    Preprocessing,
    Stage,
    TensorSpec,
)

SIZE = 16
WIDTH = 16
CLASSES = 5

CUTS: dict[str, tuple[Stage, ...]] = {
    "whole": (Stage(name="whole", inputs=("image",), outputs=("logits",)),),
    "chain": (
        Stage(name="stem", inputs=("image",), outputs=("stem",)),
        Stage(name="rest", inputs=("stem",), outputs=("logits",)),
    ),
    "diamond": (
        Stage(name="stem", inputs=("image",), outputs=("stem",)),
        Stage(name="left", inputs=("stem",), outputs=("left",)),
        Stage(name="right", inputs=("stem",), outputs=("right/conv", "right/gate")),
        Stage(name="join", inputs=("left", "right/conv", "right/gate"), outputs=("logits",)),
    ),
    # Both branches repeat the stem.
    "branches": (
        Stage(name="left", inputs=("image",), outputs=("left",)),
        Stage(name="right", inputs=("image",), outputs=("right/conv", "right/gate")),
        Stage(name="join", inputs=("left", "right/conv", "right/gate"), outputs=("logits",)),
    ),
}


def toy_model(precision: Literal["fp32", "fp16"], batch: int | str) -> onnx.ModelProto:
    """Return the whole network; with fp16 everything but the image and the logits is float16."""
    dtype, element = (np.float16, TensorProto.FLOAT16) if precision == "fp16" else (np.float32, TensorProto.FLOAT)
    random = np.random.default_rng(7)
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:]))
        weights.append(numpy_helper.from_array((random.standard_normal(shape) / fan_in**0.5).astype(dtype), name))
        return name

    def silu(source: str, target: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Sigmoid", [source], [f"{target}/sigmoid"]),
            helper.make_node("Mul", [source, f"{target}/sigmoid"], [target]),
        ]

    def conv(source: str, name: str, target: str, *shape: int) -> onnx.NodeProto:
        pads = [shape[-1] // 2] * 4
        return helper.make_node("Conv", [source, weight(f"{name}/weight", *shape)], [target], pads=pads)

    nodes = [
        helper.make_node("Cast", ["image"], ["image/cast"], to=element),
        conv("image/cast", "stem/conv", "stem/sum", WIDTH, 3, 3, 3),
        *silu("stem/sum", "stem"),
        conv("stem", "left/conv", "left/sum", WIDTH, WIDTH, 3, 3),
        *silu("left/sum", "left"),
        conv("stem", "right/dense", "right/conv", WIDTH, WIDTH, 3, 3),
        helper.make_node("GlobalAveragePool", ["stem"], ["right/pool"]),
        conv("right/pool", "right/se", "right/gate/sum", WIDTH, WIDTH, 1, 1),
        helper.make_node("Sigmoid", ["right/gate/sum"], ["right/gate"]),
        helper.make_node("Mul", ["right/conv", "right/gate"], ["join/gated"]),
        helper.make_node("Add", ["left", "join/gated"], ["join/sum"]),
        helper.make_node("GlobalAveragePool", ["join/sum"], ["join/pool"]),
        helper.make_node("Flatten", ["join/pool"], ["join/flat"]),
        helper.make_node("Gemm", ["join/flat", weight("head/weight", WIDTH, CLASSES)], ["join/logits"]),
        helper.make_node("Cast", ["join/logits"], ["logits"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)


def toy_tensors(precision: Literal["fp32", "fp16"]) -> dict[str, TensorSpec]:
    """Describe every tensor at which the toy can be cut."""
    inner: Literal["float32", "float16"] = "float16" if precision == "fp16" else "float32"
    return {
        "image": TensorSpec(dtype="float32", shape=(3, SIZE, SIZE)),
        "stem": TensorSpec(dtype=inner, shape=(WIDTH, SIZE, SIZE)),
        "left": TensorSpec(dtype=inner, shape=(WIDTH, SIZE, SIZE)),
        "right/conv": TensorSpec(dtype=inner, shape=(WIDTH, SIZE, SIZE)),
        "right/gate": TensorSpec(dtype=inner, shape=(WIDTH, 1, 1)),
        "logits": TensorSpec(dtype="float32", shape=(CLASSES,)),
    }


def write_bundle(
    folder: Path, stages: tuple[Stage, ...], models: dict[str, onnx.ModelProto], precision: str, batch: BatchRange
) -> Path:
    """Write stages with their models as a bundle."""
    folder.mkdir(parents=True)
    entries = []
    for stage in stages:
        path = folder / f"{stage.name}.onnx"
        onnx.save(models[stage.name], path)
        entries.append(
            BundleStage(name=stage.name, inputs=stage.inputs, outputs=stage.outputs, file=FileRecord.of(path))
        )
    tensors = toy_tensors(precision)  # type: ignore[arg-type]
    used = {name for stage in stages for name in (*stage.inputs, *stage.outputs)}
    bundle = Bundle(
        name="toy",
        parent=Parent(kind="checkpoint", name="toy.safetensors", sha256="0" * 64),
        form="fused",
        network=NetworkConfig(stem=(WIDTH,), planes=(WIDTH,), num_blocks=(1,), last_planes=WIDTH, num_classes=CLASSES),
        precision=precision,  # type: ignore[arg-type]
        partition="whole",
        batch=batch,
        preprocessing=Preprocessing(input_size=(3, SIZE, SIZE), crop_pct=1.0),
        tensors={name: tensors[name] for name in used},
        stages=tuple(entries),
    )
    write_manifest(folder / "bundle.json", bundle)
    return folder


def make_bundle(folder: Path, cut: str, precision: Literal["fp32", "fp16"], batch: BatchRange) -> Path:
    """Write the toy as a bundle, cut in a named way."""
    whole = toy_model(precision, "batch" if batch.is_dynamic else batch.max)
    extractor = Extractor(whole)
    models = {stage.name: extractor.extract_model(list(stage.inputs), list(stage.outputs)) for stage in CUTS[cut]}
    return write_bundle(folder, CUTS[cut], models, precision, batch)


def reference_tensors(
    precision: Literal["fp32", "fp16"], images: NDArray[np.float32], names: tuple[str, ...] = ("logits",)
) -> dict[str, NDArray[np.float32]]:
    """Run the whole toy without optimisation and return the named tensors as float32."""
    import onnxruntime

    model = toy_model(precision, images.shape[0])
    values = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(values[name] for name in names if name != "logits")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(
        zip(names, (array.astype(np.float32) for array in session.run(list(names), {"image": images})), strict=True)
    )
