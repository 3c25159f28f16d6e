"""ONNX Runtime's CUDA provider where there is no GPU: what is refused and how, and what a session is asked for.

Works with either package of ONNX Runtime; the numbers on GPUs are in tests/gpu.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from parnet_deploy.artifacts.schemas import BatchRange, Lane
from parnet_deploy.engines import get_backend, onnxruntime_cuda
from parnet_deploy.engines.base import StageSpec
from parnet_deploy.engines.gpus import list_gpus
from parnet_deploy.engines.onnxruntime_cuda import OnnxRuntimeCudaBackend, OnnxRuntimeCudaEngine
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions
from parnet_deploy.errors import EngineError, MissingDependencyError
from tests.engines import toy_bundles

PROVIDER = "CUDAExecutionProvider"
HAS_PROVIDER = PROVIDER in onnxruntime.get_available_providers()
without_gpu = pytest.mark.skipif(bool(list_gpus()), reason="there is a GPU here, on which this would work")
# How the package for processors says that it has no such provider, before it falls back.
silently = pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")


@pytest.fixture
def spec() -> StageSpec:
    tensors = toy_bundles.toy_tensors("fp16")
    return StageSpec(
        name="whole",
        inputs={"image": tensors["image"]},
        outputs={"logits": tensors["logits"]},
        batch=BatchRange(min=1, opt=2, max=4),
        lane=Lane(device="cuda:1"),
        threads=1,
        is_alone=True,
    )


@pytest.fixture
def path(spec: StageSpec, tmp_path: Path) -> Path:
    """The stage's file."""
    return toy_bundles.make_bundle(tmp_path / "bundle", "whole", "fp16", spec.batch) / "whole.onnx"


@pytest.mark.skipif(HAS_PROVIDER, reason="the package for GPUs is installed here")
def test_the_package_for_processors_is_refused_with_the_remedy() -> None:
    with pytest.raises(MissingDependencyError, match="has no CUDA provider") as caught:
        get_backend("onnxruntime-cuda")
    assert caught.value.remedy is not None
    assert "pip uninstall onnxruntime, then pip install 'parnet-deploy[onnxruntime-gpu]'" in caught.value.remedy
    assert "overwrite each other" in caught.value.remedy


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "parnet_deploy.engines.onnxruntime_cuda")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="needs the package 'onnxruntime'") as caught:
        get_backend("onnxruntime-cuda")
    assert caught.value.remedy == "pip install 'parnet-deploy[onnxruntime-gpu]'"


def test_options_of_tensorrt_are_refused() -> None:
    options = BuildOptions(tensorrt=TensorRTOptions(refit=True))
    with pytest.raises(EngineError, match="'onnxruntime-cuda' takes no TensorRT options"):
        get_backend("onnxruntime-cuda", options)


@without_gpu
@silently
def test_a_session_that_falls_back_to_the_processor_is_refused(spec: StageSpec, path: Path) -> None:
    engine = OnnxRuntimeCudaEngine(path, spec, tf32=False)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"cannot load stage 'whole': .*fallback to CPU EP has been") as caught:
            engine.bind_device({"image": 4096, "logits": 8192}, 2, stream=77)
        assert caught.value.where == str(path)
        assert caught.value.remedy is not None
        assert "driver" in caught.value.remedy
    engine.close()


@without_gpu
@silently
def test_it_is_refused_also_where_it_may_fall_back(
    spec: StageSpec, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an ONNX Runtime that does not know the session's entry would: the providers are asked for."""
    monkeypatch.setattr(onnxruntime_cuda, "_session_options", onnxruntime.SessionOptions)
    with pytest.raises(EngineError, match=r"runs on \['CPUExecutionProvider'\], not on CUDAExecutionProvider"):
        OnnxRuntimeCudaEngine(path, spec, tf32=False).bind_device({"image": 4096, "logits": 8192}, 2, stream=77)


def test_a_file_that_is_not_the_stages_is_refused_before_there_is_a_stream(spec: StageSpec, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match="cannot load stage 'whole'"):
        OnnxRuntimeCudaEngine(tmp_path / "bad.onnx", spec, tf32=False)


class Session:
    """Stands in for a session on a GPU, and keeps a record of what it is asked."""

    def __init__(self, provider: tuple[str, dict[str, str]], options: Any) -> None:
        self.provider, self.options = provider, options
        self.bindings: list[dict[str, tuple[object, ...]]] = []
        self.runs: list[tuple[object, str]] = []
        self.failing = False

    def io_binding(self) -> SimpleNamespace:
        bound: dict[str, tuple[object, ...]] = {}
        self.bindings.append(bound)
        return SimpleNamespace(
            bind_input=lambda name, *arguments: bound.update({name: ("input", *arguments)}),
            bind_output=lambda name, *arguments: bound.update({name: ("output", *arguments)}),
            bound=bound,
        )

    def run_with_iobinding(self, binding: SimpleNamespace, options: Any) -> None:
        if self.failing:
            raise RuntimeError("CUDA failure 2: out of memory")
        self.runs.append((binding.bound, options.get_run_config_entry("disable_synchronize_execution_providers")))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Stand-ins in the order in which they were opened; sessions on the processor are real."""
    sessions: list[Session] = []
    open_real = onnxruntime_cuda.open_session

    def open_session(
        path: Path, options: Any, spec: StageSpec, action: str, again: str, *provider: Any, **_: Any
    ) -> Any:
        if not provider:
            return open_real(path, options, spec, action, again)
        sessions.append(Session(provider[0], options))
        return sessions[-1]

    monkeypatch.setattr(onnxruntime_cuda, "open_session", open_session)
    return sessions


@pytest.mark.parametrize("tf32", [False, True])
def test_what_a_session_is_asked_for(spec: StageSpec, path: Path, opened: list[Session], tf32: bool) -> None:
    engine = OnnxRuntimeCudaEngine(path, spec, tf32=tf32)
    assert opened == []
    bound = engine.bind_device({"image": 4096, "logits": 8192}, 3, stream=77)
    (session,) = opened
    assert session.provider == (
        PROVIDER,
        {
            "device_id": "1",
            "user_compute_stream": "77",
            "use_tf32": "01"[tf32],
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        },
    )
    assert session.options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert session.options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert session.bindings == [
        {
            "image": ("input", "cuda", 1, np.dtype("float32"), (3, 3, 16, 16), 4096),
            "logits": ("output", "cuda", 1, np.dtype("float32"), (3, 5), 8192),
        }
    ]
    # Twice when it is bound, so that later runs allocate nothing; and no run waits.
    bound.enqueue()
    assert session.runs == [(session.bindings[0], "1")] * 3
    bound.close()


def test_a_session_for_each_stream_as_long_as_it_is_bound(spec: StageSpec, path: Path, opened: list[Session]) -> None:
    engine = OnnxRuntimeCudaEngine(path, spec, tf32=False)
    addresses = {"image": 4096, "logits": 8192}
    first, second = engine.bind_device(addresses, 1, stream=1), engine.bind_device(addresses, 2, stream=1)
    other = engine.bind_device(addresses, 1, stream=2)
    assert [session.provider[1]["user_compute_stream"] for session in opened] == ["1", "2"]
    first.close()
    third = engine.bind_device(addresses, 3, stream=1)
    assert len(opened) == 2
    second.close()
    third.close()
    # The handle may be another stream's by now, so it is not taken for the one that was bound.
    again = engine.bind_device(addresses, 1, stream=1)
    assert len(opened) == 3
    again.close()
    other.close()


def test_a_stage_that_cannot_be_bound_leaves_no_session(spec: StageSpec, path: Path, opened: list[Session]) -> None:
    engine = OnnxRuntimeCudaEngine(path, spec, tf32=False)
    addresses = {"image": 4096, "logits": 8192}
    bound = engine.bind_device(addresses, 1, stream=1)
    opened[0].failing = True
    with pytest.raises(EngineError, match="cannot enqueue stage 'whole': CUDA failure 2: out of memory"):
        engine.bind_device(addresses, 2, stream=1)
    bound.close()
    engine.bind_device(addresses, 1, stream=1).close()
    assert len(opened) == 2


@without_gpu
def test_a_build_says_that_there_is_no_gpu(
    spec: StageSpec, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None, raising=False)
    backend = OnnxRuntimeCudaBackend(BuildOptions(devices=(0, 3)))
    assert [str(lane) for lane in backend.lanes(5)] == ["cuda:0/0", "cuda:3/0"]
    with pytest.raises(EngineError, match="no GPU here"):
        backend.device_records(["cuda:0"])
    with pytest.raises(EngineError, match="no CUDA driver here"):
        backend.build(path, spec, tmp_path / "engine.onnx")
    assert not (tmp_path / "engine.onnx").exists()


def test_what_the_loader_prints_is_no_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: sys.stdout.write("no libcudart"), raising=False)
    assert OnnxRuntimeCudaBackend().runs(onnxruntime.__version__)
    assert capsys.readouterr() == ("", "no libcudart")
