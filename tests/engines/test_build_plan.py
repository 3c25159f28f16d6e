"""Building plans from bundles, and refusing plans that do not belong here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from parnet_deploy.artifacts.files import SEAL
from parnet_deploy.artifacts.folders import open_bundle, open_plan
from parnet_deploy.artifacts.schemas import Wait
from parnet_deploy.engines import build_plan, get_backend
from parnet_deploy.engines.load import open_backend
from parnet_deploy.errors import ArtifactError, EngineError, OutputExistsError

MakeBundle = Callable[..., Path]


def edit_plan(folder: Path, change: Callable[[dict], object]) -> None:
    path = folder / "plan.json"
    content = json.loads(path.read_text())
    del content[SEAL]
    change(content)
    path.write_text(json.dumps(content))


def test_a_plan_holds_the_bundle_s_graph_and_how_to_run_it(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("diamond", batch=(1, 2, 4))
    seen: list[tuple[str, int, int]] = []
    folder = build_plan(bundle, tmp_path / "plan", threads=4, progress=lambda *step: seen.append(step))
    assert folder == tmp_path / "plan"
    source, plan = open_bundle(bundle), open_plan(folder).manifest
    assert plan.parent == source.as_parent()
    assert (plan.tensors, plan.batch, plan.network) == (
        source.manifest.tensors,
        source.manifest.batch,
        source.manifest.network,
    )
    assert [stage.name for stage in plan.stages] == ["stem", "left", "right", "join"]
    assert {name: str(lane) for name, lane in plan.placement.items()} == {
        "stem": "cpu/0",
        "left": "cpu/0",
        "right": "cpu/1",
        "join": "cpu/0",
    }
    assert [record.threads for record in plan.engines] == [4, 2, 2, 4]
    assert [command.event for command in plan.schedule if isinstance(command, Wait)] == ["stem", "right"]
    assert (plan.backend, plan.backend_version) == ("onnxruntime", get_backend("onnxruntime").version())
    assert plan.devices == get_backend("onnxruntime").device_records(["cpu"])
    assert seen == [("stem", 0, 4), ("left", 1, 4), ("right", 2, 4), ("join", 3, 4)]
    recorded = [file.name for engine in plan.engines for file in engine.files]
    # Early releases of ONNX Runtime write a file of weights for the join as well, in which there are none.
    assert sorted(file.name for engine in plan.engines for file in engine.files if file.size_bytes) == [
        "join.onnx",
        "left.onnx",
        "left.onnx.weights",
        "right.onnx",
        "right.onnx.weights",
        "stem.onnx",
        "stem.onnx.weights",
    ]
    assert sorted(file.name for file in folder.iterdir()) == sorted([*recorded, "plan.json"])


def test_weights_that_are_mapped_are_checked_like_engines(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = build_plan(make_bundle("whole"), tmp_path / "plan")
    engine = open_plan(folder).manifest.engines[0]
    assert engine.weights is not None
    assert engine.size_bytes == sum((folder / file.name).stat().st_size for file in engine.files)
    path = folder / engine.weights.name
    content = path.read_bytes()
    assert len(content) > 2 * (folder / engine.file.name).stat().st_size
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="sha256 differs") as caught:
        open_plan(folder)
    assert caught.value.where == str(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="the file is missing"):
        open_plan(folder)


def test_threads_default_to_the_cores_of_the_process(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parnet_deploy.engines.build.available_cores", lambda: 6)
    plan = open_plan(build_plan(make_bundle("branches"), tmp_path / "plan", backend="null")).manifest
    assert [record.threads for record in plan.engines] == [3, 3, 6]


def test_an_existing_output_is_kept_or_replaced_whole(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle, output = make_bundle("diamond"), tmp_path / "plan"
    build_plan(bundle, output, backend="null")
    before = (output / "plan.json").read_bytes()
    with pytest.raises(OutputExistsError, match="already exists"):
        build_plan(bundle, output)
    assert (output / "plan.json").read_bytes() == before
    build_plan(bundle, output, force=True)
    filled = [file.suffix for file in output.iterdir() if file.stat().st_size]
    assert sorted(filled) == [".json"] + [".onnx"] * 4 + [".weights"] * 3


def test_a_plan_never_replaces_its_own_bundle(make_bundle: MakeBundle) -> None:
    bundle = make_bundle("whole")
    with pytest.raises(OutputExistsError, match="would replace the bundle"):
        build_plan(bundle, bundle.parent / "." / bundle.name, force=True)
    open_bundle(bundle)


def test_a_stage_that_cannot_be_built_leaves_nothing_behind(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("diamond")
    stem = (bundle / "stem.onnx").read_bytes()
    content = json.loads((bundle / "bundle.json").read_text())
    del content[SEAL]
    by_name = {stage["name"]: stage for stage in content["stages"]}
    # A stage whose file is another stage's, with the right hash: only the backend can notice.
    (bundle / "join.onnx").write_bytes(stem)
    by_name["join"]["file"] = {**by_name["stem"]["file"], "name": "join.onnx"}
    (bundle / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(EngineError, match="stage 'join' has tensors"):
        build_plan(bundle, tmp_path / "plan")
    assert sorted(path.name for path in tmp_path.iterdir()) == [bundle.name]


def test_bad_arguments_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="0 threads"):
        build_plan(tmp_path / "none", tmp_path / "plan", threads=0)
    with pytest.raises(EngineError, match="no backend 'abacus'"):
        build_plan(tmp_path / "none", tmp_path / "plan", backend="abacus")
    with pytest.raises(ArtifactError, match=r"no bundle\.json here"):
        build_plan(tmp_path / "none", tmp_path / "plan", backend="null")
    assert not any(tmp_path.iterdir())


def test_a_damaged_bundle_is_refused(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle("diamond")
    data = bytearray((bundle / "left.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "left.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        build_plan(bundle, tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda plan: plan.update(backend_version="0.9"), EngineError, "built with onnxruntime 0.9, and this is"),
        (
            lambda plan: plan["devices"][0].update(name="old", capability="x86_64 sse4_2"),
            EngineError,
            r"built for old \(x86_64 sse4_2\) as cpu, and this is",
        ),
        (lambda plan: plan["devices"][0].update(device="cuda:0"), EngineError, "built for nothing as cpu"),
        (lambda plan: plan.update(backend="gone"), EngineError, "no backend 'gone'"),
        (lambda plan: plan["schedule"].pop(), ArtifactError, "not sound: stage 'join' is never launched"),
        (lambda plan: plan.update(schema_version=2), ArtifactError, "schema version 2"),
        (lambda plan: plan.update(extra=1), ArtifactError, "field 'extra'"),
    ],
)
def test_a_plan_from_elsewhere_or_changed_is_refused(
    make_bundle: MakeBundle,
    tmp_path: Path,
    change: Callable[[dict], object],
    error: type[Exception],
    message: str,
) -> None:
    folder = build_plan(make_bundle("diamond"), tmp_path / "plan")
    edit_plan(folder, change)
    with pytest.raises(error, match=message) as caught:
        open_backend(open_plan(folder))
    assert caught.value.remedy  # type: ignore[attr-defined]


def test_no_command_of_a_plan_can_be_taken_out(make_bundle: MakeBundle, tmp_path: Path) -> None:
    folder = build_plan(make_bundle("diamond"), tmp_path / "plan", backend="null")
    count = len(open_plan(folder).manifest.schedule)
    assert count == 8
    for index in range(count):
        copy = tmp_path / f"copy{index}"
        shutil.copytree(folder, copy)
        edit_plan(copy, lambda plan, index=index: plan["schedule"].pop(index))
        with pytest.raises(ArtifactError, match="the schedule is not sound"):
            open_backend(open_plan(copy))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "the file is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes where the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"), "sha256 differs"),
    ],
)
def test_a_tampered_engine_file_is_refused(
    make_bundle: MakeBundle, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    folder = build_plan(make_bundle("whole"), tmp_path / "plan")
    damage(folder / "whole.onnx")
    with pytest.raises(ArtifactError, match=message):
        open_plan(folder)
