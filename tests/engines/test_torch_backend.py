"""The torch backend on the processor, and how its engines for GPUs drive CUDA, of which stand-ins keep a record."""

from __future__ import annotations

import ctypes
import gc
import inspect
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from parnet_deploy.artifacts.files import SEAL
from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import BatchRange, Lane, Stage, TensorSpec
from parnet_deploy.engines import build_plan, get_backend, torch_run
from parnet_deploy.engines.base import StageSpec
from parnet_deploy.engines.cpu import cpu_record
from parnet_deploy.engines.gpus import Gpu
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions
from parnet_deploy.engines.torch_run import TorchDeviceEngine, TorchEngine
from parnet_deploy.errors import EngineError, MissingDependencyError
from parnet_deploy.runtime import Session
from tests.engines import toy_bundles

MakeBundle = Callable[..., Path]
SIZES = BatchRange(min=1, opt=2, max=4)
TWO_GPUS = tuple(Gpu(ordinal, "NVIDIA H100", "90", 80 << 30) for ordinal in range(2))


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep to the processor also where there are GPUs."""
    see(monkeypatch, ())


def see(monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...]) -> None:
    for module in ("parnet_deploy.engines.torch", "parnet_deploy.engines.gpus"):
        monkeypatch.setattr(f"{module}.list_gpus", lambda: gpus)


def spec_of(stage: Stage, device: str = "cpu", threads: int = 1) -> StageSpec:
    tensors = toy_bundles.toy_tensors("fp32")
    return StageSpec(
        name=stage.name,
        inputs={name: tensors[name] for name in stage.inputs},
        outputs={name: tensors[name] for name in stage.outputs},
        batch=SIZES,
        lane=Lane(device=device),
        threads=threads,
        is_alone=True,
    )


@pytest.fixture
def engine_path(tmp_path: Path) -> Path:
    """The engine of the whole toy network."""
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", "whole", "fp32", SIZES)
    path = tmp_path / "whole.onnx"
    layers = get_backend("torch").build(bundle / "whole.onnx", spec_of(toy_bundles.CUTS["whole"][0]), path)
    assert layers["Conv"] == 4
    assert path.read_bytes() == (bundle / "whole.onnx").read_bytes()
    return path


def images_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


def test_torch_is_not_imported_before_it_is_asked_for() -> None:
    code = "import sys, parnet_deploy.engines, parnet_deploy.runtime; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["torch", "onnx"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in ("torch", "torch_run", "onnx_to_torch"):
        monkeypatch.delitem(sys.modules, f"parnet_deploy.engines.{name}")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"needs the package '{package}'") as caught:
        get_backend("torch")
    assert caught.value.remedy == "pip install 'parnet-deploy[author]'"


def test_lanes_are_of_gpus_where_there_are_some_or_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [str(lane) for lane in get_backend("torch").lanes(2)] == ["cpu/0", "cpu/1"]
    named = get_backend("torch", BuildOptions(devices=(1, 0)))
    assert [str(lane) for lane in named.lanes(2)] == ["cuda:1/0", "cuda:0/0"]
    with pytest.raises(EngineError, match="no GPU here"):
        named.device_records(["cuda:1"])
    see(monkeypatch, TWO_GPUS)
    assert [str(lane) for lane in get_backend("torch").lanes(2)] == ["cuda:0/0", "cuda:0/1"]


def test_devices_of_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = get_backend("torch")
    assert backend.device_records(["cpu"]) == (cpu_record(),)
    assert backend.runs(torch.__version__)
    assert not backend.runs("1.0")
    see(monkeypatch, TWO_GPUS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match="cannot use the GPUs here") as caught:
        backend.device_records(["cuda:1"])
    assert caught.value.remedy is not None
    assert "built for CUDA" in caught.value.remedy
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (record,) = backend.device_records(["cuda:1"])
    assert (record.device, record.name, record.capability) == ("cuda:1", "NVIDIA H100", "sm90")
    with pytest.raises(EngineError, match="no device cuda:2"):
        backend.device_records(["cuda:0", "cuda:2"])


def test_options_that_are_not_for_it_are_refused() -> None:
    with pytest.raises(EngineError, match="'torch' takes no TensorRT options"):
        get_backend("torch", BuildOptions(tensorrt=TensorRTOptions(refit=True)))
    with pytest.raises(EngineError, match="only GPUs have TF32"):
        get_backend("torch", BuildOptions(tf32=True)).lanes(1)


def test_bound_arrays_are_used_in_place_and_live_as_long_as_their_engine(engine_path: Path) -> None:
    engine = TorchEngine(engine_path, spec_of(toy_bundles.CUTS["whole"][0]))
    image = images_of(2)
    first, second = np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32)
    one, two = engine.bind({"image": image}, {"logits": first}), engine.bind({"image": image}, {"logits": second})
    engine.close()
    one.run()
    np.testing.assert_allclose(first, toy_bundles.reference_tensors("fp32", image)["logits"], rtol=0, atol=1e-5)
    kept = first.copy()
    image *= 2
    two.run()
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(second, toy_bundles.reference_tensors("fp32", image)["logits"], rtol=0, atol=1e-5)
    alive = weakref.ref(image)
    del image
    gc.collect()
    assert alive() is not None
    del one, two
    gc.collect()
    assert alive() is None


def test_a_stage_has_its_threads_and_nobody_else_notices(engine_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[int]] = {"one": [], "three": []}
    before = torch.get_num_threads()
    load = torch_run.torch_graph_from_onnx

    def note(*_: object) -> None:
        seen[threading.current_thread().name].append(torch.get_num_threads())

    def load_counting(path: Path) -> Any:
        graph = load(path)
        graph.module.register_forward_hook(note)
        return graph

    monkeypatch.setattr(torch_run, "torch_graph_from_onnx", load_counting)
    barrier = threading.Barrier(2)

    def serve(threads: int) -> None:
        spec = spec_of(toy_bundles.CUTS["whole"][0], threads=threads)
        bound = TorchEngine(engine_path, spec).bind({"image": images_of(1)}, {"logits": np.zeros((1, 5), np.float32)})
        for _ in range(20):
            barrier.wait(60)
            bound.run()

    workers = [threading.Thread(target=serve, args=(n,), name=name) for name, n in (("one", 1), ("three", 3))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert seen == {"one": [1] * 20, "three": [3] * 20}
    assert torch.get_num_threads() == before


def test_a_thread_that_runs_a_stage_keeps_its_own_number(engine_path: Path) -> None:
    found: list[int] = []

    def serve() -> None:
        torch.set_num_threads(2)
        engine = TorchEngine(engine_path, spec_of(toy_bundles.CUTS["whole"][0], threads=1))
        engine.bind({"image": images_of(1)}, {"logits": np.zeros((1, 5), np.float32)}).run()
        found.append(torch.get_num_threads())

    worker = threading.Thread(target=serve)
    worker.start()
    worker.join(60)
    assert found == [2]


def test_a_file_that_is_not_the_stages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"not a model")
    spec = spec_of(toy_bundles.CUTS["whole"][0])
    for call, remedy in (
        (lambda: get_backend("torch").load(path, spec), "parnet-deploy build"),
        (lambda: get_backend("torch").build(path, spec, path), "parnet-deploy export"),
    ):
        with pytest.raises(EngineError, match="torch cannot load stage 'whole': no ONNX model") as caught:
            call()
        assert caught.value.where == str(path)
        assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage(name="s", inputs=("stem",), outputs=("logits",)), r"it has tensors \['image'\], the manifest says"),
        (Stage(name="s", inputs=("image",), outputs=("left",)), r"it has tensors \['logits'\]"),
    ],
)
def test_other_tensors_than_the_manifests_are_refused(engine_path: Path, stage: Stage, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        TorchEngine(engine_path, spec_of(stage))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            TensorSpec(dtype="float16", shape=(3, 16, 16)),
            r"'image' is torch.float32\[None, 3, 16, 16\].* float16\['N', 3",
        ),
        (TensorSpec(dtype="float32", shape=(3, 16, 8)), r"the manifest says float32\['N', 3, 16, 8\]"),
    ],
)
def test_tensors_of_another_type_or_shape_are_refused(engine_path: Path, tensor: TensorSpec, message: str) -> None:
    spec = spec_of(toy_bundles.CUTS["whole"][0])
    changed = StageSpec(**{**vars(spec), "inputs": {"image": tensor}})
    with pytest.raises(EngineError, match=message):
        TorchEngine(engine_path, changed)


def test_a_result_of_another_shape_than_the_file_says_is_not_spread_over_the_output(tmp_path: Path) -> None:
    """A model may promise one row for each sample and make one for all."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"], name="n"), helper.make_node("Reshape", ["w", "s"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])],
        [
            numpy_helper.from_array(np.ones((1, 4), np.float32), "w"),
            numpy_helper.from_array(np.array([1, 4]), "s"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "m.onnx")
    four = TensorSpec(dtype="float32", shape=(4,))
    two = BatchRange(min=2, opt=2, max=2)
    spec = StageSpec("stage", {"x": four}, {"z": four}, two, Lane(device="cpu"), 1, is_alone=True)
    z = np.zeros((2, 4), np.float32)
    bound = TorchEngine(tmp_path / "m.onnx", spec).bind({"x": z.copy()}, {"z": z})
    with pytest.raises(EngineError, match=r"torch cannot run stage 'stage': a result of shape \[1, 4\], not \[2, 4\]"):
        bound.run()
    assert not z.any()


@pytest.mark.parametrize("batch", [(1, 1, 1), (3, 3, 3), (1, 2, 4)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", ["whole", "chain", "diamond", "branches"])
def test_a_plan_answers_as_onnx_runtime_does(
    make_bundle: MakeBundle, tmp_path: Path, cut: str, precision: str, batch: tuple[int, int, int]
) -> None:
    bundle = make_bundle(cut, precision, batch)
    answers = {}
    for backend in ("torch", "onnxruntime"):
        with Session.open(build_plan(bundle, tmp_path / backend, backend=backend, threads=2)) as session:
            answers[backend] = session.infer_stages(images_of(5))
    # float16: torch rounds after each of up to four layers, ONNX Runtime where a stage ends.
    tolerance = 3e-3 if precision == "fp16" else 1e-5
    assert answers["torch"].keys() == answers["onnxruntime"].keys()
    for name, expected in answers["onnxruntime"].items():
        found = answers["torch"][name]
        assert found.dtype == expected.dtype
        assert np.abs(found.astype(np.float64) - expected).max() <= tolerance * np.abs(expected).max(), name


def test_a_plan_is_of_this_torch_and_processor(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = build_plan(make_bundle("diamond"), tmp_path / "plan", backend="torch", threads=2)
    plan = open_plan(folder).manifest
    assert (plan.backend, plan.backend_version, plan.devices) == ("torch", torch.__version__, (cpu_record(),))
    assert {engine.stage: engine.layers.get("Conv") for engine in plan.engines} == {
        "stem": 1,
        "left": 1,
        "right": 2,
        "join": None,
    }
    manifest = folder / "plan.json"
    content = json.loads(manifest.read_text())
    del content[SEAL]
    manifest.write_text(json.dumps(content | {"backend_version": "1.13.1"}))
    with pytest.raises(EngineError, match=r"built with torch 1\.13\.1, and this is"):
        Session.open(folder)


def test_sessions_in_two_threads_do_not_disturb_each_other(make_bundle: MakeBundle, tmp_path: Path) -> None:
    plans = {
        cut: build_plan(make_bundle(cut, batch=(1, 1, 4)), tmp_path / cut, backend="torch", threads=2)
        for cut in ("whole", "branches")
    }
    images = [images_of(count, seed) for seed in range(6) for count in (1, 4)]
    with Session.open(plans["whole"]) as one, Session.open(plans["branches"], pipelines=2) as two:
        expected = {session: [session.infer(batch) for batch in images] for session in (one, two)}

        def serve(session: Session) -> None:
            for _ in range(5):
                for batch, logits in zip(images, expected[session], strict=True):
                    np.testing.assert_array_equal(session.infer(batch), logits)

        with ThreadPoolExecutor(max_workers=3) as pool:
            for done in [pool.submit(serve, session) for session in (one, two, two)]:
                done.result(timeout=120)


# Engines on a GPU, with stand-ins for torch's CUDA: what they compute is computed on the processor, in memory of it.


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of torch's CUDA and of the driver, in order."""
    log: list[str] = []

    class Graph:
        def __init__(self, *, keep_graph: bool) -> None:
            assert keep_graph

        def instantiate(self) -> None:
            log.append("instantiate")

        def raw_cuda_graph(self) -> int:
            return 11

        def raw_cuda_graph_exec(self) -> int:
            return 12

        def reset(self) -> None:
            log.append("reset")

    @contextmanager
    def within(*what: object, **more: object) -> Iterator[None]:
        name = " ".join(map(str, [*what, *more.values()]))
        log.append(f"begin {name}")
        try:
            yield
        finally:
            log.append(f"end {name}")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "ExternalStream", lambda stream, device: f"stream {stream} of {device}")
    monkeypatch.setattr(torch.cuda, "device", lambda device: within(device))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: within(stream))
    monkeypatch.setattr(
        torch.cuda,
        "graph",
        lambda graph, stream, capture_error_mode: within("capture on", stream, capture_error_mode),  # noqa: ARG005
    )
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append(f"synchronize {device}"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: log.append("empty cache"))
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: log.append("clear workspaces"))
    monkeypatch.setattr(torch.fx.GraphModule, "to", lambda module, *_, **__: module)
    monkeypatch.setattr(torch_run, "_tensor_at", tensor_at)
    monkeypatch.setattr(torch_run, "enqueue_graph", lambda *handles: log.append(f"enqueue {handles}"))
    run = torch_run._runner

    def noting(*arguments: Any) -> Callable[[], None]:
        made = run(*arguments)
        return lambda: (log.append("run"), made())[1]

    monkeypatch.setattr(torch_run, "_runner", noting)
    return log


def tensor_at(address: int, shape: tuple[int, ...], dtype: str, device: torch.device) -> torch.Tensor:
    assert str(device) == "cuda:1"
    memory = (ctypes.c_uint8 * (int(np.prod(shape)) * np.dtype(dtype).itemsize)).from_address(address)
    return torch.from_numpy(np.ctypeslib.as_array(memory).view(dtype).reshape(shape))


def test_a_stage_is_captured_once_and_then_enqueued_by_the_driver(engine_path: Path, calls: list[str]) -> None:
    engine = TorchDeviceEngine(engine_path, spec_of(toy_bundles.CUTS["whole"][0], "cuda:1"), tf32=False)
    # The pipeline's streams do not wait for the one that weights are copied on.
    assert calls == ["synchronize cuda:1"]
    calls.clear()
    image, logits = images_of(3), np.zeros((3, 5), np.float32)
    bound = engine.bind_device({"image": image.ctypes.data, "logits": logits.ctypes.data}, 3, stream=77)
    capture = "capture on stream 77 of cuda:1 thread_local"
    assert calls == [
        "begin cuda:1",
        *("begin stream 77 of cuda:1", "run", "run", "end stream 77 of cuda:1"),
        "clear workspaces",
        *(f"begin {capture}", "run", f"end {capture}"),
        "clear workspaces",
        "instantiate",
        "end cuda:1",
    ]
    np.testing.assert_allclose(logits, toy_bundles.reference_tensors("fp32", image)["logits"], rtol=0, atol=1e-5)
    calls.clear()
    bound.enqueue()
    bound.enqueue()
    assert calls == ["enqueue (11, 12, 77)"] * 2
    calls.clear()
    bound.close()
    engine.close()
    assert calls == ["reset", "empty cache", "empty cache"]


def test_failures_on_a_gpu_name_the_stage(engine_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TorchDeviceEngine(engine_path, spec_of(toy_bundles.CUTS["whole"][0], "cuda:1"), tf32=False)
    image, logits = images_of(1), np.zeros((1, 5), np.float32)
    addresses = {"image": image.ctypes.data, "logits": logits.ctypes.data}
    bound = engine.bind_device(addresses, 1, stream=77)

    def refuse(*_: object) -> None:
        raise EngineError("the CUDA driver answered cuGraphLaunch with error 700", remedy="look at: nvidia-smi")

    monkeypatch.setattr(torch_run, "enqueue_graph", refuse)
    with pytest.raises(EngineError, match=r"torch cannot enqueue stage 'whole': the CUDA driver .* error 700"):
        bound.enqueue()

    def fail(*_: object, **__: object) -> None:
        calls.append("capture failed")
        raise RuntimeError("CUDA out of memory.\nTried to allocate 20 MiB")

    monkeypatch.setattr(torch.cuda, "graph", fail)
    with pytest.raises(EngineError, match=r"torch cannot bind batch 1 of stage 'whole': CUDA out of memory\.$"):
        engine.bind_device(addresses, 1, stream=77)
    assert calls[-3:] == ["capture failed", "clear workspaces", "end cuda:1"]


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_computed_as_such_while_a_stage_is_captured(tf32: bool) -> None:
    def settings() -> list[object]:
        precision = [torch._C._get_fp32_precision_getter("cuda", name) for name in ("conv", "matmul")]
        cudnn = torch.backends.cudnn
        return [*precision, cudnn.enabled, cudnn.benchmark, cudnn.deterministic]

    before = settings()
    wanted = "tf32" if tf32 else "ieee"
    with torch_run._numerics(tf32=tf32):
        assert settings() == [wanted, wanted, True, False, True]
    assert settings() == before
    with pytest.raises(ZeroDivisionError), torch_run._numerics(tf32=tf32):
        raise ZeroDivisionError
    assert settings() == before


def test_torch_has_what_engines_for_gpus_call() -> None:
    """The names and parameters in use, in the torch that is installed."""
    graph = torch.cuda.CUDAGraph
    for name in ("instantiate", "raw_cuda_graph", "raw_cuda_graph_exec", "reset"):
        assert callable(getattr(graph, name))
    for function, arguments in (
        (torch.cuda.graph, {"cuda_graph": None, "stream": None, "capture_error_mode": "thread_local"}),
        (torch.cuda.ExternalStream.__new__, {"cls": None, "stream_ptr": 1, "device": "cuda:0"}),
        (torch.cuda.CUDAGraph.__new__, {"cls": None, "keep_graph": True}),
        (torch.cuda.synchronize, {"device": "cuda:0"}),
        (torch.cuda.empty_cache, {}),
    ):
        inspect.signature(function).bind(**arguments)
    assert callable(torch._C._cuda_clearCublasWorkspaces)
    interface = SimpleNamespace(__cuda_array_interface__={"data": (4096, False), "shape": (1,), "typestr": "<f4"})
    if not torch.cuda.is_available():
        # It is recognised, and then there is no driver.
        with pytest.raises((RuntimeError, AssertionError), match=r"NVIDIA driver|not compiled with CUDA"):
            torch.as_tensor(interface, device="cuda:0")
