"""The report of a verification: sentences, tables, picture and files, of checks that passed and failed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from parnet_deploy.artifacts.verification import Verification, read_verification
from parnet_deploy.checks.gate import remember, verify_artefacts, verify_golden
from parnet_deploy.checks.picture import differences_picture
from parnet_deploy.checks.publish import write_report
from parnet_deploy.checks.report_document import document_of, rich_verification
from parnet_deploy.checks.tables import change_table, layer_table, tensor_table
from parnet_deploy.checks.verification import failure, findings, verdict
from parnet_deploy.errors import ArtifactError, OutputExistsError
from parnet_deploy.reporting.html import html_of
from tests.checks.damage import damage_bundle, damage_checkpoint, in_block, poison, scale

pytestmark = pytest.mark.usefixtures("one_thread")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def passed(checkpoint: Make, bundle: Make) -> Verification:
    return verify_artefacts(
        checkpoint("three_streams", "training"), bundle("three_streams", "fused", "streams"), detail="layers"
    )


@pytest.fixture(scope="module")
def failed(checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    path = tmp_path_factory.mktemp("damaged") / "d.safetensors"
    damage_checkpoint(checkpoint("three_streams", "fused"), path, in_block("stream2.0", scale))
    return verify_artefacts(checkpoint("three_streams", "training"), path, detail="layers")


@pytest.fixture(scope="module")
def poisoned(bundle: Make, tmp_path_factory: pytest.TempPathFactory) -> Verification:
    folder = tmp_path_factory.mktemp("poisoned")
    source = bundle("three_streams", "fused", "whole")
    remember(source, folder / "g.json")
    return verify_golden(damage_bundle(source, folder / "b", "whole", "stream2.0", poison), folder / "g.json")


def text_of(verification: Verification, **options: bool) -> str:
    console = Console(file=io.StringIO(), width=300, record=True)
    console.print(rich_verification(verification, **options))
    return console.export_text()


def test_verdicts(passed: Verification, failed: Verification, poisoned: Verification) -> None:
    assert verdict(passed) == "same within 1e-04 relative"
    assert verdict(failed) == verdict(poisoned) == "DIFFERENT within 1e-04 relative"


def test_findings_name_the_layer_on_each_set_of_images(passed: Verification, failed: Verification) -> None:
    assert findings(passed) == ("each of the 15 blocks was compared on its own",)
    *departures, coverage = findings(failed)
    assert coverage == findings(passed)[0]
    assert [sentence.split(" is the first")[0] for sentence in departures] == [
        f"on {comparison.images} images, stream2.0" for comparison in failed.comparisons
    ]
    assert failure(failed) == failed.comparisons[0].departure.sentence  # type: ignore[union-attr]


def test_of_an_opaque_plan_the_report_says_so(failed: Verification) -> None:
    comparisons = tuple(
        comparison.model_copy(
            update={
                "layers": tuple(
                    layer.model_copy(update={"blocks": ("stem.0", "stem.1")}) if layer.name == "stem" else layer
                    for layer in comparison.layers
                    if layer.name != "stem.0"
                )
            }
        )
        for comparison in failed.comparisons
    )
    assert findings(failed.model_copy(update={"comparisons": comparisons}))[-1].startswith("13 of 15 blocks were")


def test_tables_hold_the_numbers(failed: Verification) -> None:
    layers = layer_table(failed)
    assert layers.columns[:3] == ("layer", "made by", "depth")
    rows = {row[0]: row for row in layers.rows}
    assert rows["stream2"][:3] == ("stream2", "stream2.1", "5")
    marked = {layers.rows[index][0] for index in layers.marked}
    assert marked == {"stream2.0", "stream2", "fusion2", "fusion3", "last", "logits"}
    logits = tensor_table(failed)
    assert [row[1] for row in logits.rows] == ["logits"] * len(failed.comparisons)
    assert logits.rows[0][2] == f"{failed.comparisons[0].logits.max_abs:.2e}"


def test_terminal(failed: Verification, poisoned: Verification) -> None:
    shown = text_of(failed)
    assert "stream2.0 is the first to depart" in shown
    assert "stream3.1" in shown
    assert "stream3.1" not in text_of(failed, has_layers=False)
    # A golden file knows no absolute differences; what is not finite is infinitely far.
    row = next(line for line in text_of(poisoned).splitlines() if line.startswith("stream2.0 "))
    assert row.split() == ["stream2.0", "stream2.0", "4", "inf", "-", "2e-04"]


def test_changes_since_a_golden_file_are_tabulated(poisoned: Verification) -> None:
    assert [row[0] for row in change_table(poisoned).rows] == ["manifest"]
    document = document_of(poisoned, differences_picture(poisoned))
    assert document.sections[2].blocks == (change_table(poisoned),)
    assert "(golden file)" in html_of(document)


@pytest.mark.parametrize("name", ["passed", "failed", "poisoned"])
def test_the_picture_is_legible_and_not_empty(request: pytest.FixtureRequest, name: str) -> None:
    verification: Verification = request.getfixturevalue(name)
    with Image.open(io.BytesIO(differences_picture(verification).light_png)) as image:
        width, height = image.size
        pixels = np.asarray(image.convert("RGB"))
    assert width > 1000
    assert height > 600
    blue = (np.abs(pixels.astype(int) - (0x00, 0x72, 0xB2)).sum(axis=2) < 12).sum()
    assert blue > 300


def test_a_folder_of_four_files(failed: Verification, tmp_path: Path) -> None:
    write_report(tmp_path / "r", failed, force=False)
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "differences.png", "report.html", "report.json", "report.md",
    ]  # fmt: skip
    assert read_verification(tmp_path / "r") == failed
    markdown = (tmp_path / "r" / "report.md").read_text()
    assert "![" in markdown
    assert "**stream2.0**" in markdown
    page = (tmp_path / "r" / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert "http" not in page
    with pytest.raises(OutputExistsError):
        write_report(tmp_path / "r", failed, force=False)
    write_report(tmp_path / "r", failed, force=True)


def test_infinite_numbers_survive_the_file(poisoned: Verification, tmp_path: Path) -> None:
    write_report(tmp_path / "r", poisoned, force=False)
    text = (tmp_path / "r" / "report.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
    found = read_verification(tmp_path / "r")
    assert found.comparisons[0].layers == poisoned.comparisons[0].layers
    assert found.comparisons[0].departure == poisoned.comparisons[0].departure
    assert found.comparisons[0].logits.norm == float("inf")
    (tmp_path / "r" / "report.json").write_text(text.replace('"schema_version": 1', '"schema_version": 7'))
    with pytest.raises(ArtifactError, match="schema version 7"):
        read_verification(tmp_path / "r")
