"""`verify` as a gate: exit codes, reports, golden files and JUnit XML, by the command line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.checks.damage import damage_bundle, scale


@pytest.fixture(scope="module")
def damaged(pipeline: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damage_bundle(pipeline["whole"], tmp_path_factory.mktemp("damaged") / "b", "whole", "stream2.1", scale)


def refused(found, *fragments: str) -> None:
    assert found.exit_code == 2
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    for fragment in ("error:", *fragments):
        assert fragment in found.stderr


def test_the_layer_that_departs_is_named(cli, pipeline, damaged: Path, tmp_path: Path) -> None:
    found = cli("verify", pipeline["trained"], damaged, "-o", tmp_path / "report", "--junit", tmp_path / "j.xml")
    assert found.exit_code == 1
    assert "stream2.1 is the first to depart" in found.stdout
    assert "DIFFERENT within 1e-04 relative" in found.stdout
    assert "error:" in found.stderr
    assert "stream2.1 is the first to depart" in found.stderr
    # Both are written although the check failed.
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "differences.png", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    root = ElementTree.parse(tmp_path / "j.xml").getroot()
    failed = {case.get("name") for case in root[0].iter("testcase") if case.find("failure") is not None}
    assert "stream2.1" in failed
    assert "stream2.0" not in failed


def test_without_layers_the_remedy_is_to_ask_for_them(cli, pipeline, damaged: Path) -> None:
    found = cli("verify", pipeline["trained"], damaged, "--count", "1")
    assert found.exit_code == 1
    assert "logits differs by" in found.stderr
    assert "remedy: see which layer departs first with --per-layer" in found.stderr


def test_json_keeps_its_keys_and_adds_layers(cli, pipeline) -> None:
    found = cli("verify", pipeline["trained"], pipeline["split"], "--per-layer", "--json")
    assert found.exit_code == 0
    result = json.loads(found.stdout, parse_constant=pytest.fail)
    assert (result["a"], result["b"], result["passed"]) == (str(pipeline["trained"]), str(pipeline["split"]), True)
    for comparison in result["comparisons"]:
        assert {"images", "count", "logits", "top1_agreement", "stages", "tolerance", "passed"} <= comparison.keys()
        assert {"name", "max_abs", "relative", "cosine", "norm"} <= comparison["logits"].keys()
        assert [stage["name"] for stage in comparison["stages"]][:3] == ["stem", "level2", "level3"]
        assert "blocks" not in comparison["stages"][0]
        assert len(comparison["layers"]) == 21
        assert comparison["departure"] is None
    assert result["verdict"] == "same within 1e-04 relative"
    assert result["findings"] == ["each of the 21 blocks was compared on its own"]
    assert result["artefacts"]["b"]["kind"] == "bundle"
    plain = cli("verify", pipeline["trained"], pipeline["split"], "--per-stage", "--json").json
    assert [stage["name"] for stage in plain["comparisons"][0]["stages"]] == ["stream1", "stream2", "stream3"]
    assert plain["comparisons"][0]["layers"] == []


def test_a_golden_file_is_written_and_kept_to(cli, pipeline, damaged: Path, tmp_path: Path) -> None:
    golden = tmp_path / "g.json"
    written = cli("verify", pipeline["plan_whole"], "--write-golden", golden, "--count", "2", "--seed", "5", "--json")
    assert written.exit_code == 0
    assert written.json["size_bytes"] == golden.stat().st_size < 2**20
    assert [images["seed"] for images in written.json["images"]] == [5]
    again = cli("verify", pipeline["plan_whole"], "--golden", golden)
    assert again.exit_code == 0
    assert "identical to the bit" in again.stdout
    result = cli("verify", pipeline["plan_whole"], "--golden", golden, "--json").json
    assert (result["a"], result["b"], result["is_golden"]) == (str(golden), str(pipeline["plan_whole"]), True)
    assert "stream2.1" not in again.stdout
    other = cli("verify", pipeline["plan_split"], "--golden", golden, "--per-layer")
    assert other.exit_code == 0
    assert "same within 1e-04 relative" in other.stdout
    assert "stream2.1" in other.stdout
    assert "parent bundle" in other.stdout
    failed = cli("verify", damaged, "--golden", golden, "--junit", tmp_path / "j.xml", "-o", tmp_path / "r")
    assert failed.exit_code == 1
    assert "stream2.1 is the first to depart" in failed.stderr
    assert "parent" in failed.stdout
    assert (tmp_path / "j.xml").is_file()
    assert (tmp_path / "r" / "report.html").is_file()


def test_golden_files_that_are_damaged_or_newer_exit_2(cli, pipeline, tmp_path: Path) -> None:
    golden = tmp_path / "g.json"
    assert cli("verify", pipeline["fused"], "--write-golden", golden).exit_code == 0
    text = golden.read_text()
    refused(cli("verify", pipeline["fused"], "--write-golden", golden), "already exists", "--force")
    assert cli("verify", pipeline["fused"], "--write-golden", golden, "--force").exit_code == 0
    golden.write_text(text.replace('"seed": 0', '"seed": 1'))
    refused(cli("verify", pipeline["fused"], "--golden", golden), "does not have the sha256", "g.json")
    golden.write_text(text.replace('"schema_version": 1', '"schema_version": 2'))
    refused(cli("verify", pipeline["fused"], "--golden", golden), "schema version 2", "the version of parnet-deploy")
    golden.write_text(text[:-40])
    refused(cli("verify", pipeline["fused"], "--golden", golden), "not valid JSON")


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["{trained}"], ["nothing to compare with", "--golden FILE"]),
        (["{trained}", "{whole}", "--golden", "{out}"], ["B and --golden exclude each other"]),
        (["{trained}", "--golden", "{out}", "--write-golden", "{out}"], ["exclude each other"]),
        (["{trained}", "--golden", "{out}"], ["no such golden file"]),
        (["{trained}", "--golden", "{out}", "--count", "2"], ["--count cannot be used with --golden"]),
        (["{trained}", "--write-golden", "{out}", "-o", "{out}"], ["-o cannot be used with --write-golden"]),
        (["{trained}", "{whole}", "-o", "{whole}"], ["already exists"]),
        (["{trained}", "{whole}", "--data", "{out}"], ["no such file or folder"]),
        (["{trained}", "{whole}", "--junit", "{trained}/j.xml"], ["cannot make the folder"]),
    ],
)
def test_refused(cli, pipeline, tmp_path: Path, arguments: list[str], fragments: list[str]) -> None:
    places = {name: str(path) for name, path in pipeline.items()} | {"out": str(tmp_path / "out")}
    found = cli("verify", *(argument.format(**places) for argument in arguments))
    assert found.exit_code == 2
    assert "Traceback" not in found.stderr
    for fragment in ("error:", *fragments):
        assert fragment in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_other_networks_fail_the_check_and_the_junit_file_says_so(cli, pipeline, tmp_path: Path) -> None:
    cli("init", "parnet_nano", "--classes", "3", "-o", tmp_path / "other.safetensors")
    found = cli("verify", tmp_path / "other.safetensors", pipeline["whole"], "--junit", tmp_path / "j.xml")
    assert found.exit_code == 1
    assert "3 classes against 10" in found.stderr
    assert ElementTree.parse(tmp_path / "j.xml").getroot().get("failures") == "1"
    cli("export", pipeline["fused"], "-o", tmp_path / "large", "--resolution", "48")
    larger = cli("verify", tmp_path / "large", pipeline["plan_whole"])
    assert larger.exit_code == 1
    assert "inputs of 3x48x48 against 3x32x32" in larger.stderr
