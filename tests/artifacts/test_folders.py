"""Bundles and plans are opened only when every file is the one that the manifest describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parnet_deploy.artifacts.files import SEAL, sha256_of_file
from parnet_deploy.artifacts.folders import card_path_of, kind_of, open_bundle, open_plan
from parnet_deploy.artifacts.schemas import Bundle, Parent, Plan
from parnet_deploy.errors import ArtifactError

OPEN: dict[str, Any] = {"bundle": open_bundle, "plan": open_plan}
SUFFIX = {"bundle": ".onnx", "plan": ".engine"}


@pytest.fixture(params=OPEN)
def kind(request: pytest.FixtureRequest) -> str:
    """A bundle, then a plan."""
    return str(request.param)


@pytest.fixture
def folder(kind: str, request: pytest.FixtureRequest) -> Path:
    """Its folder."""
    found: tuple[Path, Bundle | Plan] = request.getfixturevalue(kind)
    return found[0]


def edit(path: Path, *place: str | int, value: object) -> None:
    """Replace one value in a manifest."""
    content = json.loads(path.read_text())
    content.pop(SEAL, None)
    inner = content
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))


def test_a_bundle_names_its_files_and_itself(bundle: tuple[Path, Bundle]) -> None:
    folder, manifest = bundle
    opened = open_bundle(folder)
    assert (opened.manifest, opened.folder) == (manifest, folder)
    assert opened.sha256 == sha256_of_file(folder / "bundle.json")
    assert opened.file_of("join").read_bytes() == b"the .onnx file of join"
    assert opened.as_parent() == Parent(kind="bundle", name="bundle", sha256=opened.sha256)
    assert kind_of(folder) == "bundle"


def test_a_plan_names_its_files(plan: tuple[Path, Plan]) -> None:
    folder, manifest = plan
    opened = open_plan(folder)
    assert opened.manifest == manifest
    assert opened.sha256 == sha256_of_file(folder / "plan.json")
    assert opened.file_of("stream2").read_bytes() == b"the .engine file of stream2"
    assert kind_of(folder) == "plan"


def test_work_goes_on_while_a_plan_is_hashed(plan: tuple[Path, Plan]) -> None:
    folder, manifest = plan
    seen: list[Plan] = []
    open_plan(folder, meanwhile=seen.append)
    assert seen == [manifest]
    (folder / "join.engine").write_bytes(b"another engine of a lengt")
    with pytest.raises(ArtifactError):
        open_plan(folder, meanwhile=seen.append)
    assert seen == [manifest, manifest]

    def fail(_: Plan) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        open_plan(folder, meanwhile=fail)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stage=st.sampled_from(["stream1", "stream2", "join"]), place=st.integers(0, 20), bit=st.integers(0, 7))
def test_any_flipped_bit_of_any_file_is_noticed(folder: Path, kind: str, stage: str, place: int, bit: int) -> None:
    path = folder / f"{stage}{SUFFIX[kind]}"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(ArtifactError, match="sha256 differs") as caught:
        OPEN[kind](folder)
    path.write_bytes(whole)
    assert caught.value.where == str(path)
    OPEN[kind](folder)


def test_missing_and_truncated_files_are_named(folder: Path, kind: str) -> None:
    path = folder / f"join{SUFFIX[kind]}"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="bytes where the manifest says") as caught:
        OPEN[kind](folder)
    assert caught.value.where == str(path)
    path.unlink()
    with pytest.raises(ArtifactError, match="the file is missing") as caught:
        OPEN[kind](folder)
    assert caught.value.where == str(path)


def test_files_outside_the_folder_are_out_of_reach(folder: Path, kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    table = {"bundle": "stages", "plan": "engines"}[kind]
    record = {"sha256": sha256_of_file(secret), "size_bytes": 6}
    for name in ("../secret", str(secret), "..\\secret"):
        edit(folder / f"{kind}.json", table, 0, "file", value={"name": name, **record})
        with pytest.raises(ArtifactError, match=rf"field '{table}\.0\.file\.name'"):
            OPEN[kind](folder)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("schema_version",), 2, "schema version 2"),
        (("kind",), "checkpoint", "of kind 'checkpoint'"),
        (("extra",), 1, "field 'extra'"),
        (("network", "extra"), 1, r"field 'network\.extra'"),
        (("batch",), {"min": 2, "opt": 1, "max": 1}, "field 'batch'.*MIN <= OPT <= MAX"),
    ],
)
def test_manifests_that_were_tampered_with_are_refused(
    folder: Path, kind: str, place: tuple[str, ...], value: object, message: str
) -> None:
    edit(folder / f"{kind}.json", *place, value=value)
    with pytest.raises(ArtifactError, match=message) as caught:
        OPEN[kind](folder)
    assert caught.value.where == str(folder / f"{kind}.json")


def test_a_bundle_is_no_plan(bundle: tuple[Path, Bundle]) -> None:
    folder = bundle[0]
    with pytest.raises(ArtifactError, match=r"no plan\.json here, so this is no plan"):
        open_plan(folder)
    (folder / "bundle.json").rename(folder / "plan.json")
    with pytest.raises(ArtifactError, match="of kind 'bundle', not 'plan'"):
        open_plan(folder)


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"x")
    assert kind_of(file) == "checkpoint"
    assert card_path_of(file) == tmp_path / "net.json"
    with pytest.raises(ArtifactError, match=r"holds no bundle\.json or plan\.json"):
        kind_of(tmp_path)
    with pytest.raises(ArtifactError, match="no such file or folder"):
        kind_of(tmp_path / "none")
