"""JUnit XML: valid, one case per tensor and set of images, written also of a check that failed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import xmlschema

from parnet_deploy.artifacts.verification import Verification
from parnet_deploy.checks.gate import remember, verify_artefacts, verify_golden
from parnet_deploy.checks.junit import write_junit
from parnet_deploy.errors import ArtifactError, CheckFailedError
from tests.checks.damage import damage_bundle, damage_checkpoint, in_block, poison, scale

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[..., Path]
SCHEMA = xmlschema.XMLSchema(Path(__file__).parent / "junit.xsd")


def read(path: Path) -> ElementTree.Element:
    SCHEMA.validate(path)
    return ElementTree.parse(path).getroot()


@pytest.fixture(scope="module")
def failed(checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    damaged = damage_checkpoint(
        checkpoint("three_streams", "fused"),
        tmp_path_factory.mktemp("damaged") / "d.safetensors",
        in_block("last", scale),
    )
    return verify_artefacts(checkpoint("three_streams", "training"), damaged, detail="layers")


def test_a_case_per_tensor_and_set_of_images(failed: Verification, tmp_path: Path) -> None:
    write_junit(tmp_path / "j.xml", failed)
    root = read(tmp_path / "j.xml")
    assert [suite.get("name") for suite in root] == [
        f"{comparison.count} {comparison.images} images" for comparison in failed.comparisons
    ]
    for suite, comparison in zip(root, failed.comparisons, strict=True):
        cases = suite.findall("testcase")
        assert [case.get("name") for case in cases] == [layer.name for layer in comparison.layers]
        assert {case.get("classname") for case in cases} == {"d.safetensors against three_streams_training.safetensors"}
        failures = {case.get("name"): case.find("failure") for case in cases}
        assert {name for name, failure in failures.items() if failure is not None} == {"last", "logits"}
        assert failures["last"] is not None
        assert failures["last"].get("message").startswith("last differs by ")
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == (str(len(cases)), "2", "0")
        assert "last is the first to depart" in suite.findtext("system-out", "")
    assert root.get("tests") == str(sum(len(comparison.layers) for comparison in failed.comparisons))
    assert root.get("failures") == str(2 * len(failed.comparisons))


def test_properties_hold_versions_and_hashes(failed: Verification, tmp_path: Path) -> None:
    write_junit(tmp_path / "j.xml", failed)
    found = {entry.get("name"): entry.get("value") for entry in read(tmp_path / "j.xml").iter("property")}
    assert found["compared.sha256"] == failed.b.sha256
    assert found["reference.kind"] == "checkpoint"
    assert found["parnet-deploy"] == failed.environment.tool_version
    assert found["onnxruntime"] == failed.environment.packages["onnxruntime"]
    assert found["tolerance.precision"] == "fp32"


@pytest.mark.parametrize("detail", ["logits", "stages", "layers"])
def test_what_was_compared_decides_the_cases(checkpoint: Make, bundle: Make, tmp_path: Path, detail: str) -> None:
    found = verify_artefacts(
        checkpoint("three_streams", "fused"), bundle("three_streams", "fused", "streams"), detail=detail
    )
    write_junit(tmp_path / "j.xml", found)
    names = [case.get("name") for case in read(tmp_path / "j.xml")[0].iter("testcase")]
    assert names[-1] == "logits"
    assert len(names) == {"logits": 1, "stages": 4, "layers": 23}[detail]


def test_of_golden_files_and_numbers_that_are_not_finite(bundle: Make, tmp_path: Path) -> None:
    source = bundle("three_streams", "fused", "whole")
    remember(source, tmp_path / "g.json")
    poisoned = damage_bundle(source, tmp_path / "poisoned", "whole", "stream3.1", poison)
    write_junit(tmp_path / "j.xml", verify_golden(poisoned, tmp_path / "g.json"))
    root = read(tmp_path / "j.xml")
    messages = {case.get("name"): failure.get("message") for case in root.iter("testcase") for failure in case}
    assert messages["stream3"] == "stream3 holds numbers that are not finite"
    changed = [entry for entry in root.iter("property") if entry.get("name") == "changed.manifest"]
    assert len(changed) == 1


def test_agreement_is_a_case_where_it_is_judged(failed: Verification, tmp_path: Path) -> None:
    measured = {"top1_agreement": 0.75, "agreement": 0.9}
    comparisons = tuple(comparison.model_copy(update=measured) for comparison in failed.comparisons)
    write_junit(tmp_path / "j.xml", failed.model_copy(update={"comparisons": comparisons}))
    cases = {case.get("name"): case for case in read(tmp_path / "j.xml")[0].iter("testcase")}
    failure = cases["top-1 agreement"].find("failure")
    assert failure is not None
    assert failure.get("message") == "75.00% of the images get the same class, 90% are required"


def test_names_that_xml_cannot_hold(failed: Verification, tmp_path: Path) -> None:
    hostile = failed.b.model_copy(update={"name": 'a<b>&"\x00\x1b[31m\ud800\U0001f600'})
    write_junit(tmp_path / "j.xml", failed.model_copy(update={"b": hostile}))
    case = next(read(tmp_path / "j.xml").iter("testcase"))
    assert str(case.get("classname")).startswith('a<b>&"??[31m?\U0001f600 against')


def test_a_check_that_could_not_begin_is_one_failed_case(tmp_path: Path) -> None:
    (tmp_path / "j.xml").write_text("an older run's")
    write_junit(tmp_path / "j.xml", CheckFailedError("7 classes against 10", remedy="compare like with like"))
    root = read(tmp_path / "j.xml")
    assert (root.get("tests"), root.get("failures")) == ("1", "1")
    (failure,) = root.iter("failure")
    assert failure.get("message") == "7 classes against 10"
    assert "compare like with like" in str(failure.text)


def test_it_is_written_whole_or_not_at_all(failed: Verification, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError):
        write_junit(tmp_path / "file" / "j.xml", failed)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert json.dumps(failed.model_dump(mode="json"), allow_nan=False)
