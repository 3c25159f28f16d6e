"""Every registered topology by the backends of the processor, against ONNX Runtime without optimisation, whole tensors.

Networks are narrowed and shortened, so that they export in seconds: which operators there are, their attributes and the
shapes that they meet depend on the topology. As they are, all variants were compared once, with 64 or 32 pixels: at
most 5e-6 relative in float32 and 3e-3 in float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parnet_deploy.artifacts.folders import OpenBundle, open_bundle, open_card
from parnet_deploy.artifacts.schemas import BatchRange, NetworkConfig, Preprocessing
from parnet_deploy.checks.bundle_predictor import BundlePredictor
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.onnx_to_torch import torch_graph_from_onnx
from parnet_deploy.engines.onnxruntime import open_reference
from parnet_deploy.errors import EngineError
from parnet_deploy.export import ExportOptions, bundle, export_bundle
from parnet_deploy.fusion import fuse
from parnet_deploy.graphs.half import relative_difference
from parnet_deploy.models.checkpoints import save_checkpoint
from parnet_deploy.models.initialization import create_random_network
from parnet_deploy.models.variants import VARIANTS
from parnet_deploy.runtime import Session

WIDTHS = (8, 12, 16, 20)
# float32: sums in another order. float16: torch rounds what each of up to 12 layers makes to 11 bits, 5e-4, where ONNX
# Runtime computes in float32 and rounds what crosses the boundary; together they stay below ten of these.
TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3}


def narrowed(network: NetworkConfig) -> NetworkConfig:
    """Return a network of the same topology with a few channels, and at most two blocks in a stream."""
    changed: dict[str, Any] = {
        "stem": (*(WIDTHS[0] if width == network.stem[0] else WIDTHS[1] for width in network.stem[:-1]), WIDTHS[0]),
        "planes": WIDTHS[: network.num_streams],
        "num_blocks": tuple(min(count, 2) for count in network.num_blocks),
        "last_planes": 24,
        "num_classes": 7,
    }
    if network.stem_stride == 1:  # the stem's blocks have identities only where widths are equal
        changed["stem"] = (WIDTHS[0],) * len(network.stem)
    return NetworkConfig(**{**network.model_dump(), **changed})


def topologies() -> dict[str, NetworkConfig]:
    """Return every topology of the registry, named after its variants, and one of them with the other activation."""
    names: dict[NetworkConfig, list[str]] = {}
    for name, variant in VARIANTS.items():
        names.setdefault(narrowed(variant.network), []).append(name.removeprefix("parnet_"))
    found = {"+".join(variants): network for network, variants in names.items()}
    assert sum(name.count("+") + 1 for name in found) == len(VARIANTS)
    first = next(iter(found.values()))
    assert first.activation == "silu"
    return {**found, "relu": first.model_copy(update={"activation": "relu"})}


@pytest.fixture(
    scope="module",
    params=[pytest.param((name, form), id=f"{name}-{form}") for name in topologies() for form in ("training", "fused")],
)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A network with random weights; while it is used, torch.onnx is called once for it, because it is slow."""
    name, form = request.param
    network = topologies()[name]
    size = 2 * network.reduction
    model = create_random_network(network, seed=1)
    path = tmp_path_factory.mktemp("checkpoint") / "network.safetensors"
    preprocessing = Preprocessing(input_size=(3, size, size))
    save_checkpoint(path, model if form == "training" else fuse(model), architecture=name, preprocessing=preprocessing)
    made: dict[Any, Any] = {}
    export_graph = bundle.export_graph

    def export_once(model: Any, size: Any, batch: Any) -> Any:
        key = (model.cfg, size, batch)
        if key not in made:
            made[key] = export_graph(model, size, batch)
        return made[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "export_graph", export_once)
        yield path


def compare(opened: OpenBundle, batch: int) -> dict[str, float]:
    """Run each stage on what ONNX Runtime made of the stages before; return the largest difference of each tensor."""
    manifest = opened.manifest
    images = np.random.default_rng(batch).standard_normal((batch, *manifest.tensors["image"].shape))
    ready = {"image": images.astype(np.float32)}
    differences: dict[str, float] = {}
    for stage in manifest.stages:
        path = opened.file_of(stage.name)
        reference = open_reference(path)
        made = reference.run(list(stage.outputs), {name: ready[name] for name in stage.inputs})
        ready |= dict(zip(stage.outputs, made, strict=True))
        graph = torch_graph_from_onnx(path)
        assert sorted(graph.inputs) == sorted(stage.inputs)
        assert graph.node_counts == stage.node_counts
        with torch.inference_mode():
            results = graph.module(*(torch.from_numpy(ready[name]) for name in graph.inputs))
        for name, result in zip(graph.outputs, results, strict=True):
            assert result.numpy().dtype == ready[name].dtype
            assert result.shape == ready[name].shape
            # All of the tensor, so the border too; the largest difference by the largest number.
            differences[name] = relative_difference(ready[name], result.numpy())
    return differences


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", ["whole", "cut"])
def test_stages_compute_what_onnx_runtime_computes(checkpoint: Path, tmp_path: Path, precision: Any, cut: str) -> None:
    form = open_card(checkpoint).manifest.form
    partition = cut if cut == "whole" else {"fused": "terms-shared-stem", "training": "shared-stem"}[form]
    options = ExportOptions(partition, precision, BatchRange(min=1, opt=2, max=3))
    export_bundle(checkpoint, tmp_path / "bundle", options)
    opened = open_bundle(tmp_path / "bundle")
    for batch in (1, 3):
        differences = compare(opened, batch)
        assert len(differences) == sum(len(stage.outputs) for stage in opened.manifest.stages)
        assert max(differences.values()) <= TOLERANCES[precision], differences


@pytest.mark.parametrize("backend", ["ncnn", "openvino"])
def test_plans_compute_what_the_bundle_computes(checkpoint: Path, tmp_path: Path, backend: str) -> None:
    form = open_card(checkpoint).manifest.form
    partition = {"fused": "terms-shared-stem", "training": "shared-stem"}[form]
    export_bundle(checkpoint, tmp_path / "bundle", ExportOptions(partition, "fp32", BatchRange(min=1, opt=2, max=3)))
    if (backend, form) == ("ncnn", "training"):
        with pytest.raises(EngineError, match=r"stem\.onnx: node '.+' \(Mul\) has a constant of shape \[\]"):
            build_plan(tmp_path / "bundle", tmp_path / "plan", backend=backend, threads=1)
        return
    reference = BundlePredictor(tmp_path / "bundle")
    build_plan(tmp_path / "bundle", tmp_path / "plan", backend=backend, threads=1)
    with Session.open(tmp_path / "plan") as session:
        for batch in (1, 3):
            images = np.random.default_rng(batch).standard_normal((batch, *session.plan.tensors["image"].shape))
            expected = reference.predict_tensors(images.astype(np.float32))
            found = session.infer_stages(images.astype(np.float32))
            assert set(found) == set(expected)
            for name, tensor in expected.items():
                assert relative_difference(tensor, found[name]) <= TOLERANCES["fp32"], name


@pytest.mark.parametrize("name", ["parnet_nano", "parnet_pico"])
def test_small_variants_at_their_own_width_and_size(name: str, tmp_path: Path) -> None:
    """With a fixed batch, as plans of one image are exported."""
    variant = VARIANTS[name]
    network = fuse(create_random_network(variant.network, seed=2))
    save_checkpoint(tmp_path / "c.safetensors", network, architecture=name, preprocessing=variant.preprocessing)
    export_bundle(tmp_path / "c.safetensors", tmp_path / "bundle", ExportOptions("streams"))
    assert max(compare(open_bundle(tmp_path / "bundle"), 1).values()) <= TOLERANCES["fp32"]
