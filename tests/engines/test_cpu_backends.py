"""Backends of the processor beside ONNX Runtime: the same numbers in every cut, on the arrays that they are given."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import BatchRange, Lane
from parnet_deploy.engines import build_plan, get_backend
from parnet_deploy.engines.base import StageSpec
from parnet_deploy.errors import EngineError
from parnet_deploy.runtime import Session
from tests.engines import toy_bundles

MakeBundle = Callable[..., Path]
BACKENDS = ("ncnn", "openvino")
# Measured over 100 seeds and every tensor: at most 8.7e-7 for OpenVINO, 1.4e-6 for ncnn's Winograd.
RELATIVE = 3e-6


def images_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 16, 16)).astype(np.float32)


def check_close(found: np.ndarray, expected: np.ndarray, bound: float = RELATIVE) -> None:
    assert found.shape == expected.shape
    assert expected.any()
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [(1, 1, 1), (2, 2, 2), (1, 2, 4)])
@pytest.mark.parametrize("cut", ["whole", "chain", "diamond", "branches"])
def test_sessions_give_the_reference_numbers(
    make_bundle: MakeBundle, tmp_path: Path, backend: str, cut: str, batch: tuple[int, int, int]
) -> None:
    plan = build_plan(make_bundle(cut, "fp32", batch), tmp_path / "plan", backend=backend, threads=2)
    names = tuple(name for stage in toy_bundles.CUTS[cut] for name in stage.outputs)
    with Session.open(plan) as session:
        for count in (1, 3, 4):
            images = images_of(count, seed=count)
            reference = toy_bundles.reference_tensors("fp32", images, names)
            check_close(session.infer(images), reference["logits"])
            for name, tensor in session.infer_stages(images).items():
                check_close(tensor, reference[name])
            # Inputs are left as they are, also where a backend computes in place.
            np.testing.assert_array_equal(images, images_of(count, seed=count))


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_share_a_session(make_bundle: MakeBundle, tmp_path: Path, backend: str) -> None:
    plan = build_plan(make_bundle("diamond", "fp32", (1, 2, 2)), tmp_path / "plan", backend=backend, threads=2)
    expected = [toy_bundles.reference_tensors("fp32", images_of(2, seed))["logits"] for seed in range(8)]
    failures: list[object] = []
    with Session.open(plan, pipelines=2) as session:

        def ask(thread: int) -> None:
            try:
                for turn in range(10):
                    seed = (thread + turn) % 8
                    check_close(session.infer(images_of(2, seed)), expected[seed])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert failures == []


def test_openvino_runs_half_precision_bundles(make_bundle: MakeBundle, tmp_path: Path) -> None:
    plan = build_plan(make_bundle("diamond", "fp16"), tmp_path / "plan", backend="openvino")
    images = images_of(1)
    with Session.open(plan) as session:
        check_close(session.infer(images), toy_bundles.reference_tensors("fp16", images)["logits"], 4e-3)


def test_ncnn_refuses_half_precision_bundles(make_bundle: MakeBundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'stem' is float16, and backend 'ncnn' takes float32 bundles"):
        build_plan(make_bundle("diamond", "fp16"), tmp_path / "plan", backend="ncnn")
    assert not (tmp_path / "plan").exists()


def test_openvino_computes_in_float32_where_its_default_is_bfloat16(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """Its own default rounds to 8 bits of mantissa on processors that have bfloat16, also when a model is imported."""
    plan = build_plan(make_bundle("whole"), tmp_path / "plan", backend="openvino")
    manifest = open_plan(plan).manifest
    backend = get_backend("openvino")
    spec = StageSpec(
        "whole",
        {"image": manifest.tensors["image"]},
        {"logits": manifest.tensors["logits"]},
        BatchRange(),
        Lane(device="cpu"),
        1,
        is_alone=True,
    )
    model = backend.load(plan / manifest.engines[0].file.name, spec)._model  # type: ignore[union-attr]
    assert str(model.get_property("INFERENCE_PRECISION_HINT")) == "<Type: 'float32'>"
    assert model.get_property("INFERENCE_NUM_THREADS") == 1


def test_ncnn_has_one_lane_and_openvino_one_for_each_stage(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("branches")
    for backend, lanes in (("ncnn", {"cpu/0"}), ("openvino", {"cpu/0", "cpu/1"})):
        plan = build_plan(bundle, tmp_path / backend, backend=backend, threads=4)
        assert {str(lane) for lane in open_plan(plan).manifest.placement.values()} == lanes


@pytest.mark.parametrize("backend", BACKENDS)
def test_files_that_are_no_engines_are_refused(make_bundle: MakeBundle, tmp_path: Path, backend: str) -> None:
    bundle = make_bundle("whole")
    plan = build_plan(bundle, tmp_path / "plan", backend=backend)
    engine = plan / open_plan(plan).manifest.engines[0].file.name
    opened = get_backend(backend)
    stage = toy_bundles.CUTS["whole"][0]
    tensors = toy_bundles.toy_tensors("fp32")
    spec = StageSpec(
        "whole",
        {"image": tensors["image"]},
        {"logits": tensors["logits"]},
        BatchRange(),
        Lane(device="cpu"),
        1,
        is_alone=True,
    )
    for content in (b"", b"nothing", engine.read_bytes()[:1000]):
        damaged = tmp_path / "damaged"
        damaged.write_bytes(content)
        with pytest.raises(EngineError) as caught:
            opened.load(damaged, spec)
        assert stage.name in caught.value.what or "not an ncnn engine" in caught.value.what
    other = StageSpec("whole", {"stem": tensors["stem"]}, spec.outputs, spec.batch, spec.lane, 1, is_alone=True)
    with pytest.raises(EngineError, match="stage 'whole'"):
        opened.load(engine, other)
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError):
        opened.build(tmp_path / "bad.onnx", spec, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()
