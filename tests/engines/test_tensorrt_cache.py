"""The engine cache: what is found again, what is built anew, and what is never trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import DeviceRecord
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions, default_cache_dir
from parnet_deploy.engines.tensorrt_cache import EngineCache
from parnet_deploy.errors import ArtifactError

MakeBundle = Callable[..., Path]
GPU = DeviceRecord(device="cuda:0", name="NVIDIA GeForce RTX 3090", capability="sm86")


def engine_in(folder: Path) -> Path:
    return next(folder.glob("*.engine"))


def entry_in(folder: Path) -> Path:
    return next(folder.glob("*.json"))


def edit_entry(folder: Path, **changes: Any) -> None:
    entry_in(folder).write_text(json.dumps({**json.loads(entry_in(folder).read_text()), **changes}))


def test_the_cache_is_below_the_user_s(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "parnet-deploy" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "parnet-deploy" / "tensorrt"


def test_an_engine_is_found_under_its_own_key_only(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "new")
    key = {"onnx_sha256": "a", "gpu": "one"}
    assert cache.find(key) is None
    cache.store(key, b"engine", {"CONVOLUTION": 2})
    assert cache.find(dict(reversed(key.items()))) == (b"engine", {"CONVOLUTION": 2})
    assert cache.find({**key, "gpu": "other"}) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: engine_in(folder).write_bytes(b"enginf"),
        lambda folder: engine_in(folder).unlink(),
        lambda folder: entry_in(folder).write_text("{"),
        lambda folder: edit_entry(folder, extra=1),
        lambda folder: edit_entry(folder, key={"gpu": "two"}),
    ],
)
def test_what_was_changed_is_not_found(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    cache = EngineCache(tmp_path)
    cache.store({"gpu": "one"}, b"engine", {})
    damage(tmp_path)
    assert cache.find({"gpu": "one"}) is None


def test_a_folder_that_cannot_be_written_is_an_error_with_its_own_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError) as caught:
        EngineCache(tmp_path / "file" / "cache").store({}, b"engine", {})
    assert "--no-engine-cache" in str(caught.value.remedy)


def test_timings_belong_to_a_gpu_and_a_version(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    assert cache.timings("10.13.3.9", GPU) == b""
    cache.store_timings("10.13.3.9", GPU, b"timings")
    assert cache.timings("10.13.3.9", GPU.model_copy(update={"device": "cuda:3"})) == b"timings"
    assert cache.timings("11.4.0.106", GPU) == b""
    assert cache.timings("10.13.3.9", GPU.model_copy(update={"name": "NVIDIA H200"})) == b""


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that TensorRT was asked to build, in order; TensorRT itself is the real one."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    from parnet_deploy.engines import tensorrt

    real, seen = tensorrt.build_engine, []

    def counted(trt: Any, path: Path, spec: Any, *rest: Any) -> Any:
        seen.append(spec.name)
        return real(trt, path, spec, *rest)

    monkeypatch.setattr(tensorrt, "build_engine", counted)
    return seen


def test_only_what_changed_is_built_again(make_bundle: MakeBundle, tmp_path: Path, builds: list[str]) -> None:
    bundle = make_bundle("chain", "fp16")

    def build(name: str, bundle: Path = bundle, **settings: Any) -> Path:
        settings = {"compute_capabilities": ("86",), "cache_dir": tmp_path / "cache", **settings}
        options = BuildOptions(tensorrt=TensorRTOptions(**settings))
        built = build_plan(bundle, tmp_path / name, backend="tensorrt", options=options)
        stages, builds[:] = list(builds), []
        assert stages == expected, name
        return built

    expected = ["stem", "rest"]
    first = build("first")
    expected = []
    second = build("second")
    assert (first / "plan.json").read_bytes() == (second / "plan.json").read_bytes()
    assert (first / "rest.engine").read_bytes() == (second / "rest.engine").read_bytes()
    assert open_plan(second).manifest.engines[0].layers
    expected = ["stem", "rest"]
    build("other_target", compute_capabilities=("89",))
    build("other_option", detailed_profiling=True)
    build("other_weights", bundle=make_bundle("chain", "fp32"))
    build("uncached", cache_dir=None)
    for path in (tmp_path / "cache").glob("*.engine"):
        path.write_bytes(path.read_bytes()[:-1])
    third = build("damaged")
    assert (first / "plan.json").read_bytes() == (third / "plan.json").read_bytes()
