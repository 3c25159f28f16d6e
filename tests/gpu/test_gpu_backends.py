"""The backends that need no TensorRT, through sessions: on GPUs where there are some; the same tests on the processor.

What the processor cannot show is what CUDA does; that the tests themselves are right it can.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest

from parnet_deploy.artifacts.cuda_options import CudaOptions, GraphMode
from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.gpus import list_gpus
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.runtime import Session
from tests.engines import toy_bundles

# Of a tensor's largest number. float32: other algorithms, which sum in other orders. float16: rounded to 11 bits after
# each of up to twelve layers, where ONNX Runtime computes in float32 on the processor; as parity at the export.
TOLERANCES = {"fp32": 2e-5, "fp16": 5e-3}
CUTS = ("whole", "branches", "diamond")
PATIENCE_S = 120


class Target(NamedTuple):
    """A backend and where its plans shall run."""

    backend: str
    device: str


TARGETS = [
    pytest.param(Target("torch", "cpu"), id="torch-cpu"),
    pytest.param(Target("torch", "cuda"), id="torch-cuda", marks=pytest.mark.gpu),
    pytest.param(Target("onnxruntime-cuda", "cuda"), id="onnxruntime-cuda", marks=pytest.mark.gpu),
]


def missing_for(target: Target) -> str | None:
    """Say what is not here that a target needs."""
    if find_spec("torch") is None and target.backend == "torch":
        return "torch is not installed (pip install 'parnet-deploy[author]')"
    if target.device == "cpu":
        return None
    if not list_gpus():
        return "no NVIDIA GPU here, or no driver (libcuda.so.1)"
    if find_spec("pycuda") is None and (find_spec("cuda") is None or find_spec("cuda.bindings") is None):
        return "no package that reaches the CUDA driver (pip install 'parnet-deploy[cuda]')"
    if target.backend == "torch":
        import torch

        return None if torch.cuda.is_available() else f"torch {torch.__version__} cannot use the GPU here"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA provider (pip install 'parnet-deploy[onnxruntime-gpu]')"
    return None


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Target:
    """Each target; skips where something for it is missing."""
    found: Target = request.param
    missing = missing_for(found)
    if missing is not None:
        pytest.skip(missing)
    if found.device == "cpu":
        monkeypatch.setattr("parnet_deploy.engines.torch.list_gpus", lambda: ())
    return found


BuildToy = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path, target: Target) -> BuildToy:
    """Build a plan of a toy network for the target; its bundle is beside it."""

    def make(
        cut: str = "branches", precision: Any = "fp32", batch: tuple[int, int, int] = (1, 1, 4), **options: Any
    ) -> Path:
        name = "-".join([cut, precision, *map(str, batch), *options])
        sizes = BatchRange(min=batch[0], opt=batch[1], max=batch[2])
        bundle = toy_bundles.make_bundle(tmp_path / f"bundle-{name}", cut, precision, sizes)
        plan = tmp_path / f"plan-{name}"
        return build_plan(bundle, plan, backend=target.backend, options=BuildOptions(**options))

    return make


def open_plan(folder: Path, graphs: GraphMode = "always", pipelines: int = 1) -> Session:
    return Session.open(folder, pipelines=pipelines, cuda=CudaOptions(graphs=graphs))


def images_of(count: int, seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, size, size)).astype(np.float32)


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the largest difference relative to the largest number, over all of a tensor."""
    assert (expected.dtype, expected.shape) == (found.dtype, found.shape)
    wide = expected.astype(np.float64)
    return float(np.abs(wide - found).max() / np.abs(wide).max())


def expected_tensors(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Run the files of a bundle, or of that of a plan, in turn by ONNX Runtime on the processor, unoptimised."""
    opened = open_bundle(folder.with_name(folder.name.replace("plan-", "bundle-")))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    tensors = {"image": images}
    for stage in opened.manifest.stages:
        path = str(opened.file_of(stage.name))
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        made = session.run(list(stage.outputs), {name: tensors[name] for name in stage.inputs})
        tensors.update(zip(stage.outputs, made, strict=True))
    del tensors["image"]
    return tensors


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", CUTS)
def test_every_tensor_is_onnx_runtimes_on_the_processor(build: BuildToy, cut: str, precision: str) -> None:
    folder = build(cut, precision)
    with open_plan(folder) as session:
        # Every size piece by piece, captured, and as a graph by then: none may leave something behind for another.
        for round_ in range(3):
            for count in range(1, 5):
                images = images_of(count, seed=10 * round_ + count)
                found = session.infer_stages(images)
                expected = expected_tensors(folder, images)
                assert found.keys() == expected.keys()
                for name, tensor in expected.items():
                    assert difference(tensor, found[name]) <= TOLERANCES[precision], (name, count)


@pytest.fixture(scope="module", params=[("training", "fp32"), ("fused", "fp32"), ("fused", "fp16")], ids="-".join)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of three streams, split by stream: groups, strides, shuffles and border biases, which the toy lacks."""
    pytest.importorskip("timm", reason="exporting needs pip install 'parnet-deploy[author]'")
    from parnet_deploy.artifacts.schemas import NetworkConfig, Preprocessing
    from parnet_deploy.export import ExportOptions, export_bundle
    from parnet_deploy.fusion import fuse
    from parnet_deploy.models.checkpoints import save_checkpoint
    from parnet_deploy.models.initialization import create_random_network

    form, precision = request.param
    folder = tmp_path_factory.mktemp("network")
    config = NetworkConfig(stem=(8, 8), planes=(8, 12, 16), num_blocks=(1, 2, 1), last_planes=24, num_classes=7)
    model = create_random_network(config, seed=1)
    preprocessing = Preprocessing(input_size=(3, 64, 64))
    checkpoint = folder / "network.safetensors"
    saved = model if form == "training" else fuse(model)
    save_checkpoint(checkpoint, saved, architecture="parnet", preprocessing=preprocessing)
    options = ExportOptions("streams", precision, BatchRange(min=1, opt=1, max=3))
    export_bundle(checkpoint, folder / "bundle-network", options)
    return folder / "bundle-network"


def test_networks_too(network: Path, target: Target, tmp_path: Path) -> None:
    folder = build_plan(network, tmp_path / "plan-network", backend=target.backend)
    precision = open_bundle(network).manifest.precision
    with open_plan(folder) as session:
        for count in (1, 3, 1, 3, 1, 3):
            images = images_of(count, seed=count, size=64)
            found = session.infer_stages(images)
            expected = expected_tensors(network, images)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                assert difference(tensor, found[name]) <= TOLERANCES[precision], name


def test_branches_have_streams_of_their_own(build: BuildToy, target: Target) -> None:
    with open_plan(build("whole")) as one, open_plan(build("branches")) as several:
        assert {lane.stream for lane in one.plan.placement.values()} == {0}
        lanes = several.plan.placement.values()
        assert {lane.stream for lane in lanes} == {0, 1}
        assert all(lane.device.startswith(target.device) for lane in lanes)
        assert difference(one.infer(images_of(3)), several.infer(images_of(3))) <= TOLERANCES["fp32"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", CUTS)
def test_graphs_change_no_bit(build: BuildToy, cut: str, precision: str) -> None:
    """Piece by piece or as one graph the same kernels run; of the latter the first request is not captured."""
    folder = build(cut, precision)
    answers: dict[str, list[np.ndarray]] = {}
    for graphs in ("never", "always"):
        with open_plan(folder, graphs) as session:  # type: ignore[arg-type]
            answers[graphs] = [session.infer(images_of(count, seed)) for seed in range(3) for count in (1, 4)]
    for piece_by_piece, captured in zip(answers["never"], answers["always"], strict=True):
        np.testing.assert_array_equal(piece_by_piece, captured)


@pytest.mark.parametrize("graphs", ["never", "auto"])
def test_pipelines_answer_at_the_same_time(build: BuildToy, graphs: GraphMode) -> None:
    """Two pipelines over the same engines, whose first requests bind and whose second are captured side by side.

    Not `always`: threads take turns, and ONNX Runtime allocates for each, which ends a capture if it is then.
    """
    folder = build("branches")
    requests = [images_of(seed % 4 + 1, seed) for seed in range(12)]
    with open_plan(folder, "never") as session:
        expected = [session.infer(images) for images in requests]
    with open_plan(folder, graphs, pipelines=2) as session, ThreadPoolExecutor(max_workers=4) as pool:
        start = threading.Barrier(4)

        def serve(first: int) -> None:
            start.wait(PATIENCE_S)
            for index in range(40):
                request = (first + index) % len(requests)
                np.testing.assert_array_equal(session.infer(requests[request]), expected[request])

        for done in [pool.submit(serve, first) for first in (0, 3, 6, 9)]:
            done.result(timeout=PATIENCE_S)


def test_sessions_can_be_opened_again_and_beside_each_other(build: BuildToy) -> None:
    """Engines of a closed session leave nothing that those of the next are disturbed by, though streams come again."""
    folder = build("diamond", "fp16")
    with open_plan(folder) as first:
        expected = first.infer(images_of(4))
        for _ in range(3):
            with open_plan(folder) as other:
                for _ in range(3):
                    np.testing.assert_array_equal(other.infer(images_of(4)), expected)
            np.testing.assert_array_equal(first.infer(images_of(4)), expected)


def test_more_batch_sizes_than_are_kept_bound(build: BuildToy) -> None:
    folder = build("branches", "fp32", (1, 1, 12))
    expected = expected_tensors(folder, images_of(12))["logits"]
    with open_plan(folder) as session:
        for _ in range(2):
            for count in range(1, 13):
                assert difference(expected[:count], session.infer(images_of(12)[:count])) <= TOLERANCES["fp32"]


def test_stages_are_profiled(build: BuildToy) -> None:
    with open_plan(build("diamond")) as session:
        spans = session.profile(images_of(2), runs=3)
        assert len(spans) == 3
        for run in spans:
            assert {span.stage for span in run if not span.is_copy} == {"stem", "left", "right", "join"}
            assert all(0 <= span.start_ms <= span.end_ms for span in run)
        assert difference(session.infer(images_of(2)), session.infer(images_of(2))) == 0


def test_tf32_can_be_asked_for(build: BuildToy, target: Target) -> None:
    """That it is off otherwise, the other tests' tolerance shows."""
    if target.device == "cpu":
        pytest.skip("processors have no TF32")
    folder = build("whole", tf32=True)
    with open_plan(folder) as session:
        assert session.plan.build_options == {"tf32": True}
        logits = session.infer(images_of(4))
    # 10 bits of mantissa instead of 23.
    assert difference(expected_tensors(folder, images_of(4))["logits"], logits) < 1e-2
