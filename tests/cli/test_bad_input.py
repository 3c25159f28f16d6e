"""The commands on bad input: one clear error, exit 2, no traceback, nothing lost and nothing half-written."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from parnet_deploy.artifacts.files import SEAL, sha256_of_file
from parnet_deploy.errors import ArtifactError

NAMES = ["trained", "fused", "plain", "whole", "split", "plan_plain", "plan_whole", "plan_split"]


def refused(found, *fragments: str) -> None:
    assert found.exit_code == 2
    assert "Traceback" not in found.stderr
    assert found.stdout == ""
    for fragment in ("error:", *fragments):
        assert fragment in found.stderr


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["fuse", "{missing}", "-o", "{out}.safetensors"], ["no such checkpoint"]),
        (["fuse", "{trained}", "-o", "{out}.pt"], ["must end in .safetensors"]),
        (["fuse", "{plain}", "-o", "{out}.safetensors"], ["no such checkpoint"]),
        (["fuse", "{trained}", "-o", "{trained}", "--force"], ["would replace the one it is made from"]),
        (["import", "{missing}", "-o", "{out}.safetensors"], ["no such file"]),
        (["import", "{trained}", "-o", "{out}.safetensors"], ["holds no 'state_dict'"]),
        (["init", "parnet_q", "-o", "{out}.safetensors"], ["no model 'parnet_q'", "parnet_l"]),
        (["init", "parnet_l", "-o", "{out}.safetensors", "--resolution", "100"], ["multiples of 32", "96x96"]),
        (["export", "{fused}", "-o", "{out}", "--resolution", "30"], ["multiples of 4", "32x32"]),
        (["export", "{fused}", "-o", "{out}", "--partition", "halves"], ["no partition 'halves'", "shared-stem"]),
        (["export", "{fused}", "-o", "{out}", "--partition", ""], ["no partition ''"]),
        (["export", "{fused}", "-o", "{out}", "--split-streams", "--partition", "terms"], ["disagree"]),
        (["export", "{trained}", "-o", "{out}", "--partition", "terms"], ["fuse the checkpoint first"]),
        (["export", "{fused}", "-o", "{out}", "--dynamic-batch", "4:2:1"], ["MIN:OPT:MAX"]),
        (["export", "{fused}", "-o", "{out}", "--dynamic-batch", "many"], ["MIN:OPT:MAX"]),
        (["export", "{fused}", "-o", "{out}", "--dynamic-batch", "1:2:3", "--batch", "2"], ["exclude each other"]),
        (["export", "{fused}", "-o", "{whole}"], ["already exists", "--force"]),
        (["build", "{fused}", "-o", "{out}"], ["no bundle.json"]),
        (["build", "{plan_whole}", "-o", "{out}"], ["no bundle"]),
        (["build", "{whole}", "-o", "{out}", "--backend", "magic"], ["no backend 'magic'", "onnxruntime"]),
        (["build", "{whole}", "-o", "{plan_whole}"], ["already exists", "--force"]),
        (["run", "{whole}", "{image}"], ["no plan.json"]),
        (["run", "{plan_whole}", "{missing}"], ["no such file or folder"]),
        (["run", "{plan_whole}", "{trained}"], ["image"]),
        (["verify", "{trained}", "{missing}"], ["no such file or folder"]),
        (["verify", "{trained}", "{folder}"], ["no bundle.json or plan.json"]),
        (["evaluate", "{plan_whole}", "{missing}"], ["no such folder"]),
        (["inspect", "{missing}"], ["no such file or folder"]),
        (["serve-bench", "{missing}"], ["plan"]),
        (["train", "--data", "{missing}", "-o", "{out}.safetensors"], ["no such folder"]),
        (["train", "--data", "digits", "-o", "{trained}"], ["already exists", "--force"]),
    ],
)
def test_refused(cli, pipeline, tmp_path: Path, arguments: list[str], fragments: list[str]) -> None:
    (tmp_path / "image.png").write_bytes(b"not a picture")
    before = {path: path.stat().st_mtime_ns for path in pipeline["trained"].parent.rglob("*")}
    places = {name: str(path) for name, path in pipeline.items()}
    places |= {"missing": str(tmp_path / "nothing"), "out": str(tmp_path / "out"), "folder": str(tmp_path)}
    places["image"] = str(tmp_path / "image.png")
    refused(cli(*(argument.format(**places) for argument in arguments)), "remedy:", *fragments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.png"]
    assert {path: path.stat().st_mtime_ns for path in pipeline["trained"].parent.rglob("*")} == before


def test_usage_errors_exit_2(cli) -> None:
    for arguments in (["fuse"], ["nonsense"], ["export", "x", "--precision", "fp8"], ["init", "parnet_s"]):
        found = cli(*arguments)
        assert found.exit_code == 2
        assert found.stdout == ""
        assert "Traceback" not in found.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_file_is_noticed(cli, pipeline, tmp_path: Path, name: str) -> None:
    source = pipeline[name]
    if source.is_dir():
        copy = tmp_path / name
        shutil.copytree(source, copy)
        victim = next(path for path in sorted(copy.iterdir()) if path.suffix == ".onnx")
    else:
        copy = victim = tmp_path / source.name
        shutil.copy(source, copy)
        shutil.copy(source.with_suffix(".json"), copy.with_suffix(".json"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    refused(cli("inspect", copy), "sha256 differs")
    victim.write_bytes(data[:-1])
    refused(cli("inspect", copy), "bytes where the manifest says")
    victim.unlink()
    refused(cli("inspect", copy))


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_manifest_is_noticed(cli, pipeline, tmp_path: Path, name: str) -> None:
    source = pipeline[name]
    if source.is_dir():
        copy = tmp_path / name
        shutil.copytree(source, copy)
        manifest = copy / ("plan.json" if name.startswith("plan") else "bundle.json")
    else:
        copy = tmp_path / source.name
        shutil.copy(source, copy)
        manifest = copy.with_suffix(".json")
        shutil.copy(source.with_suffix(".json"), manifest)
    text = manifest.read_text()
    content = json.loads(text)
    for change, fragment in (
        ({"schema_version": 2}, "schema version 2"),
        ({"kind": "report"}, "'report'"),
        ({"unknown_field": 1}, "unknown_field"),
        ({"network": {**content["network"], "planes": [16, 32]}}, "network"),
        ({"label_names": ["just one"]}, "label names"),
    ):
        manifest.write_text(json.dumps({**content, **change}))
        refused(cli("inspect", copy), fragment)
    manifest.write_text(text[: len(text) // 2])
    refused(cli("inspect", copy), "not valid JSON")
    manifest.write_text("[" * 100_000)
    refused(cli("inspect", copy), "not valid JSON")


def test_paths_in_a_manifest_are_refused(cli, pipeline, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(pipeline["whole"], copy)
    for name in ("../secret.onnx", "/etc/passwd", "a/b.onnx", "..", ".hidden", "a\\b.onnx", ""):
        content = json.loads((pipeline["whole"] / "bundle.json").read_text())
        content["stages"][0]["file"]["name"] = name
        (copy / "bundle.json").write_text(json.dumps(content))
        refused(cli("inspect", copy), "file.name")


@pytest.mark.parametrize(
    ("error", "fragments"),
    [
        (OSError(errno.EIO, "Input/output error", "some/file"), ["some/file: Input/output error", "remedy:"]),
        (PermissionError(errno.EACCES, "Permission denied"), ["Permission denied"]),
        (MemoryError(), ["not enough memory", "a smaller batch"]),
    ],
)
def test_what_the_system_refuses_is_an_error_and_no_traceback(
    cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, fragments: list[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("parnet_deploy.artifacts.folders.kind_of", fail)
    refused(cli("inspect", tmp_path), *fragments)


def test_a_path_too_long_is_an_error_and_no_traceback(cli) -> None:
    refused(cli("inspect", "x" * 5000), "File name too long")


@pytest.mark.parametrize("name", ["whole", "plan_whole"])
def test_weights_in_another_file_are_refused(cli, pipeline, tmp_path: Path, name: str) -> None:
    import onnx

    copy = tmp_path / name
    shutil.copytree(pipeline[name], copy)
    path, manifest = copy / "whole.onnx", copy / ("plan.json" if name.startswith("plan") else "bundle.json")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    content = json.loads(manifest.read_text())
    del content[SEAL]
    entry = content["engines" if name.startswith("plan") else "stages"][0]
    entry["file"] = {
        "name": path.name,
        "sha256": sha256_of_file(path),
        "size_bytes": path.stat().st_size,
    }
    manifest.write_text(json.dumps(content))
    refused(cli("verify", copy, pipeline["whole"]), "whole.onnx: keeps weights in another file")


def test_debug_shows_the_traceback(cli, tmp_path: Path) -> None:
    found = cli("--debug", "inspect", tmp_path / "nothing")
    assert found.exit_code == 2
    assert "Traceback" in found.stderr


def test_errors_that_an_interrupt_left_behind_are_one(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that does not close in good order while Ctrl-C unwinds is no failure of its own."""

    def interrupted(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ArtifactError("closed too early")

    monkeypatch.setattr("parnet_deploy.runtime.preprocess.find_images", interrupted)
    found = cli("run", "plan", "photo.png")
    assert (found.exit_code, found.stdout, found.stderr) == (130, "", "")
