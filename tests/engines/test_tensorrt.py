"""Real engines, built by TensorRT for RTX without a GPU from the toy bundles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from parnet_deploy.artifacts.folders import open_bundle, open_plan
from parnet_deploy.artifacts.schemas import BatchRange, Copy, DeviceRecord, Lane, Stage
from parnet_deploy.engines import build_plan, get_backend
from parnet_deploy.engines.base import stage_spec
from parnet_deploy.engines.gpus import Gpu
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions
from parnet_deploy.engines.tensorrt_build import build_engine
from parnet_deploy.engines.tensorrt_flavour import TensorRT, load_tensorrt
from parnet_deploy.errors import EngineError
from parnet_deploy.runtime import Session
from tests.engines import toy_bundles

pytest.importorskip("tensorrt_rtx", reason="not installed: pip install 'parnet-deploy[tensorrt-rtx]'")

MakeBundle = Callable[..., Path]
TURING_TO_BLACKWELL = ("75", "80", "86", "89", "120", "121")


def rtx(
    *capabilities: str, devices: tuple[int, ...] | None = None, tf32: bool = False, **settings: object
) -> BuildOptions:
    """Options for an ahead-of-time build."""
    options = TensorRTOptions(compute_capabilities=capabilities or ("86",), **settings)  # type: ignore[arg-type]
    return BuildOptions(devices=devices, tf32=tf32, tensorrt=options)


def build(bundle: Path, output: Path, options: BuildOptions) -> Path:
    return build_plan(bundle, output, backend="tensorrt", options=options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("batch", [(1, 1, 1), (3, 3, 3)], ids=["one", "three"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", ["whole", "chain", "diamond", "branches"])
def test_a_fixed_batch_builds_to_the_same_bytes_twice(
    make_bundle: MakeBundle, tmp_path: Path, cut: str, precision: str, batch: tuple[int, int, int]
) -> None:
    bundle = make_bundle(cut, precision, batch)
    first = build(bundle, tmp_path / "first", rtx("86", "89"))
    plan = open_plan(first).manifest
    assert [engine.stage for engine in plan.engines] == [stage.name for stage in open_bundle(bundle).manifest.stages]
    assert all(engine.layers["CONVOLUTION"] > 0 for engine in plan.engines if engine.stage in ("whole", "stem"))
    assert files_of(build(bundle, tmp_path / "second", rtx("86", "89"))) == files_of(first)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("cut", ["whole", "branches"])
def test_a_range_of_batches_builds_and_is_kept_by_the_cache(
    make_bundle: MakeBundle, tmp_path: Path, cut: str, precision: str
) -> None:
    # Built anew, TensorRT for RTX 1.7 numbers the tensors of a dynamic shape's programme by memory address.
    bundle, options = make_bundle(cut, precision, (1, 2, 4)), rtx("86", "89", cache_dir=tmp_path / "cache")
    first = build(bundle, tmp_path / "first", options)
    assert open_plan(first).manifest.batch == BatchRange(min=1, opt=2, max=4)
    assert files_of(build(bundle, tmp_path / "second", options)) == files_of(first)


def test_a_plan_says_what_it_was_built_for(make_bundle: MakeBundle, tmp_path: Path) -> None:
    plan = open_plan(build(make_bundle("diamond", "fp16"), tmp_path / "plan", rtx("86", "89"))).manifest
    assert plan.backend == "tensorrt"
    assert plan.backend_version.startswith("rtx 1.")
    assert plan.build_options == {"compute_capabilities": "86,89"}
    assert plan.devices == (DeviceRecord(device="cuda:0", name="compute capability 8.6, 8.9", capability="sm86 sm89"),)
    assert {name: str(lane) for name, lane in plan.placement.items()} == {
        "stem": "cuda:0/0",
        "left": "cuda:0/0",
        "right": "cuda:0/1",
        "join": "cuda:0/0",
    }
    # One copy in, one copy out; within a device tensors are read in place.
    copies = [command for command in plan.schedule if isinstance(command, Copy)]
    assert [(copy.tensor, copy.source, copy.target) for copy in copies] == [
        ("image", "cpu", "cuda:0"),
        ("logits", "cuda:0", "cpu"),
    ]


def test_devices_give_a_lane_each_and_copies_between(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("branches", "fp16")
    spread = open_plan(build(bundle, tmp_path / "spread", rtx(devices=(2, 5)))).manifest
    assert spread.placement == {
        "left": Lane(device="cuda:2"),
        "right": Lane(device="cuda:5"),
        "join": Lane(device="cuda:2"),
    }
    crossing = {
        (command.tensor, command.source, command.target)
        for command in spread.schedule
        if isinstance(command, Copy) and "cpu" not in (command.source, command.target)
    }
    assert crossing == {("right/conv", "cuda:5", "cuda:2"), ("right/gate", "cuda:5", "cuda:2")}
    assert [record.device for record in spread.devices] == ["cuda:2", "cuda:5"]
    # Where a stage runs does not change its engine; devices are built side by side.
    together = build(bundle, tmp_path / "together", rtx())
    for stage in ("left", "right", "join"):
        name = f"{stage}.engine"
        assert (tmp_path / "spread" / name).read_bytes() == (together / name).read_bytes()


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"detailed_profiling": True}, "detailed_profiling"),
        ({"workspace_bytes": 2**26}, "workspace_bytes"),
        ({"tf32": True}, "tf32"),
        ({"optimization_level": 0}, "optimization_level"),
    ],
)
def test_settings_reach_the_builder_and_the_plan(
    make_bundle: MakeBundle, tmp_path: Path, changed: dict[str, object], name: str
) -> None:
    bundle = make_bundle("whole", "fp32")
    plan = open_plan(build(bundle, tmp_path / "plan", rtx("86", **changed))).manifest
    assert plan.build_options[name] == changed[name]


def test_detailed_profiling_and_targets_change_the_engine(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("whole", "fp16")
    options = [rtx("86"), rtx("86", "120"), rtx("86", detailed_profiling=True)]
    engines = [
        (build(bundle, tmp_path / f"plan{index}", option) / "whole.engine").read_bytes()
        for index, option in enumerate(options)
    ]
    assert len(set(engines)) == 3


def test_a_workspace_that_is_too_small_is_tensorrt_s_own_message(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cannot build stage 'whole'.*workspace"):
        build(make_bundle("whole", "fp32"), tmp_path / "plan", rtx("86", workspace_bytes=16))
    assert not (tmp_path / "plan").exists()


def test_tensorrt_for_rtx_names_its_targets() -> None:
    assert set(TURING_TO_BLACKWELL) <= set(load_tensorrt(TensorRTOptions(flavour="rtx")).targets())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (rtx("86", "90"), "cannot build for compute capability 90"),
        (rtx("42"), "cannot build for compute capability 42"),
        (rtx("86", hardware_compatibility="ampere-plus"), "no hardware- or version-compatible builds"),
        (rtx("86", version_compatible=True), "no hardware- or version-compatible builds"),
        (rtx("86", flavour="tensorrt"), "only for the GPU that it runs on"),
    ],
)
def test_requests_that_cannot_work_are_refused_with_a_remedy(
    make_bundle: MakeBundle, tmp_path: Path, options: BuildOptions, message: str
) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        build(make_bundle("whole"), tmp_path / "plan", options)
    assert caught.value.remedy
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(tensorrt=TensorRTOptions(flavour="rtx")), "finds no GPU here"),
        (rtx("86", refit=True), "refittable engines are built on a GPU"),
    ],
)
def test_what_needs_a_gpu_is_refused_where_there_is_none(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: BuildOptions, message: str
) -> None:
    monkeypatch.setattr("parnet_deploy.engines.tensorrt.list_gpus", lambda: ())
    with pytest.raises(EngineError, match=message) as caught:
        build(make_bundle("whole"), tmp_path / "plan", options)
    assert caught.value.remedy


def test_turing_takes_float16_and_no_float32(make_bundle: MakeBundle, tmp_path: Path) -> None:
    build(make_bundle("whole", "fp16"), tmp_path / "half", rtx("75", "86"))
    with pytest.raises(EngineError, match="FP32") as caught:
        build(make_bundle("whole", "fp32"), tmp_path / "full", rtx("75", "86"))
    assert "--precision fp16" in str(caught.value)


def test_threads_are_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="takes no thread count"):
        build_plan(make_bundle("whole"), tmp_path / "plan", backend="tensorrt", threads=2, options=rtx())


def test_an_operator_that_the_parser_does_not_know_is_named_with_its_node(tmp_path: Path) -> None:
    model = toy_bundles.toy_model("fp32", 1)
    node = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    node.op_type, node.name = "Abracadabra", "stem/act/Magic"
    bundle = toy_bundles.write_bundle(
        tmp_path / "bundle", toy_bundles.CUTS["whole"], {"whole": model}, "fp32", BatchRange()
    )
    with pytest.raises(EngineError, match=r"cannot read stage 'whole': node 'stem/act/Magic' \(Abracadabra\)"):
        build(bundle, tmp_path / "plan", rtx())


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.onnx"
    path.write_bytes(b"not a model")
    spec = _spec(BatchRange())
    with pytest.raises(EngineError, match="cannot read stage 'whole'"):
        get_backend("tensorrt", rtx()).build(path, spec, tmp_path / "whole.engine")


@pytest.mark.parametrize(
    ("precision", "batch", "message"),
    [("fp16", BatchRange(), None), ("fp32", BatchRange(min=2, opt=2, max=2), r"'image' is FLOAT\[1, 3, 16, 16\]")],
)
def test_a_graph_that_is_not_the_manifest_s_is_refused(
    tmp_path: Path, precision: str, batch: BatchRange, message: str | None
) -> None:
    import onnx

    path = tmp_path / "whole.onnx"
    onnx.save(toy_bundles.toy_model(precision, 1), path)
    backend = get_backend("tensorrt", rtx())
    if message is None:
        assert backend.build(path, _spec(batch), tmp_path / "whole.engine")["CONVOLUTION"] == 4
    else:
        with pytest.raises(EngineError, match=message):
            backend.build(path, _spec(batch), tmp_path / "whole.engine")


def test_a_stage_of_another_stage_s_file_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("chain")
    manifest = open_bundle(bundle).manifest
    spec = stage_spec(manifest.stages[1], manifest, Lane(device="cuda:0"), 1, is_alone=False)
    with pytest.raises(EngineError, match="stage 'rest' has tensors"):
        get_backend("tensorrt", rtx()).build(bundle / "stem.onnx", spec, tmp_path / "rest.engine")


def _spec(batch: BatchRange):  # type: ignore[no-untyped-def]
    stage = Stage(name="whole", inputs=("image",), outputs=("logits",))
    graph = SimpleNamespace(tensors=toy_bundles.toy_tensors("fp32"), batch=batch, precision="fp32")
    return stage_spec(stage, graph, Lane(device="cuda:0"), 1, is_alone=True)  # type: ignore[arg-type]


def test_a_failure_on_one_device_ends_the_build_and_leaves_nothing(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("branches", "fp32")
    with pytest.raises(EngineError, match="FP32"):
        build(bundle, tmp_path / "plan", rtx("75", devices=(0, 1)))
    assert [path.name for path in tmp_path.iterdir()] == [bundle.name]


def test_progress_names_the_stage_and_tensorrt_s_phases(make_bundle: MakeBundle, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    options = rtx("86", devices=(0, 1))
    build_plan(
        make_bundle("branches", "fp16"),
        tmp_path / "plan",
        backend="tensorrt",
        options=options,
        progress=lambda *step: seen.append(step),
    )
    assert {text for text, _, _ in seen if ":" not in text} == {"left", "right", "join"}
    steps = [text for text, _, _ in seen if text.startswith("join: optimizing graph ")]
    total = int(steps[-1].split("/")[1])
    assert steps == [f"join: optimizing graph {step}/{total}" for step in range(1, total + 1)]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def test_a_build_stops_when_it_is_told_to(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("whole")
    manifest = open_bundle(bundle).manifest
    spec = stage_spec(manifest.stages[0], manifest, Lane(device="cuda:0"), 1, is_alone=True)
    told: list[str] = []

    def stop(step: str) -> bool:
        told.append(step)
        return len(told) < 5

    with pytest.raises(EngineError, match="cannot build stage 'whole'"):
        get_backend("tensorrt", rtx()).build(bundle / "whole.onnx", spec, tmp_path / "whole.engine", report=stop)
    assert 5 <= len(told) < 20
    assert not (tmp_path / "whole.engine").exists()


def test_a_session_over_engines_for_gpus_is_refused_where_there_is_none(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parnet_deploy.engines.tensorrt.list_gpus", lambda: ())
    # Whatever else is installed, the plan's flavour is the one that opens it.
    folder = build(make_bundle("whole", "fp16"), tmp_path / "plan", rtx("86", "89"))
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0.106"))
    with pytest.raises(EngineError, match="TensorRT for RTX finds no GPU here") as caught:
        Session.open(folder)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("capability", "message"),
    [
        ("86", "the CUDA driver does not load"),
        ("120", r"built for compute capability 8.6, 8.9 \(sm86 sm89\) as cuda:0, and this is GPU \(sm120\)"),
        ("90", "cannot build for compute capability 90"),
    ],
)
def test_a_session_over_engines_for_gpus_names_what_is_missing(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, message: str
) -> None:
    folder = build(make_bundle("whole", "fp16"), tmp_path / "plan", rtx("86", "89"))
    monkeypatch.setattr("parnet_deploy.engines.tensorrt.list_gpus", lambda: (Gpu(0, "GPU", capability, 1 << 30),))
    with pytest.raises(EngineError, match=message):
        Session.open(folder)


def test_engines_are_those_of_polygraphy(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """NVIDIA's own loaders, told the same, make the same bytes: nothing is set by accident or forgotten."""
    pytest.importorskip("polygraphy")
    bundle = make_bundle("branches", "fp16", (2, 2, 2))
    plan = build(bundle, tmp_path / "plan", rtx("86", "89", detailed_profiling=True, tf32=True))
    stage = open_bundle(bundle).manifest.stages[-1]
    tensors = open_bundle(bundle).manifest.tensors
    shapes = {name: [[2, *tensors[name].shape]] * 3 for name in stage.inputs}
    script = """
import hashlib, json, sys
from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
from polygraphy.backend.trt import Profile, engine_bytes_from_network, network_from_onnx_path

profile = Profile()
for name, sizes in json.loads(sys.argv[2]).items():
    profile.add(name, *map(tuple, sizes))
config = CreateConfigRTX(compute_capabilities=[(8, 6), (8, 9)], profiles=[profile])
data = engine_bytes_from_network(network_from_onnx_path(sys.argv[1]), config=config)
sys.stdout.write("sha256 " + hashlib.sha256(data).hexdigest())
"""
    arguments = [sys.executable, "-W", "ignore", "-c", script, str(bundle / "join.onnx"), json.dumps(shapes)]
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    recorded = {engine.stage: engine.file.sha256 for engine in open_plan(plan).manifest.engines}
    assert done.stdout.endswith(f"sha256 {recorded['join']}"), done.stdout


def test_a_builder_that_gives_no_engine_and_no_reason_is_reported(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt_rtx

    monkeypatch.setattr(tensorrt_rtx.Builder, "build_serialized_network", lambda *_: None)
    bundle = make_bundle("whole")
    manifest = open_bundle(bundle).manifest
    spec = stage_spec(manifest.stages[0], manifest, Lane(device="cuda:0"), 1, is_alone=True)
    trt = load_tensorrt(TensorRTOptions(flavour="rtx"))
    with pytest.raises(EngineError, match="cannot build stage 'whole': it gave no reason"):
        build_engine(trt, bundle / "whole.onnx", spec, BuildOptions(), ("86",), None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("earlier", [b"", b"no timings", None], ids=["none", "damaged", "own"])
def test_timings_go_in_and_come_out(make_bundle: MakeBundle, earlier: bytes | None) -> None:
    """The path of the full TensorRT, with the module that is here: it keeps a cache too, though of nothing."""
    bundle = make_bundle("whole", "fp16")
    manifest = open_bundle(bundle).manifest
    spec = stage_spec(manifest.stages[0], manifest, Lane(device="cuda:0"), 1, is_alone=True)
    trt = TensorRT("tensorrt", load_tensorrt(TensorRTOptions(flavour="rtx")).module)
    options = BuildOptions(tensorrt=TensorRTOptions(hardware_compatibility="ampere-plus"))

    def timings(before: bytes | None) -> bytes | None:
        return build_engine(trt, bundle / "whole.onnx", spec, options, (), before).timing_cache

    assert timings(None) is None
    found = timings(timings(b"") if earlier is None else earlier)
    assert found
    assert found != b"no timings"
