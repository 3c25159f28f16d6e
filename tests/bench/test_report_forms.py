"""What a report looks like in each form, from known numbers."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.report import Report, read_report
from parnet_deploy.bench.output.csv_files import csv_files
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.bench.output.html import html_of
from parnet_deploy.bench.output.markdown import markdown_of
from parnet_deploy.bench.output.publish import write_report
from parnet_deploy.bench.output.report_document import document_of
from parnet_deploy.bench.output.tables import (
    comparison_table,
    contender_table,
    paper_table,
    settings_table,
    stage_table,
    start_table,
    summary_table,
    sweep_table,
)
from parnet_deploy.bench.output.terminal import rich_answer, rich_report
from parnet_deploy.bench.output.words import conditions
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.errors import ArtifactError, OutputExistsError

NAME = "<fast> & $new$"
GPUS = "somewhere/with/a/long/path/plan_split_over_two_gpus"


class Tags(HTMLParser):
    """Collect tags, text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_summary_holds_the_numbers(report: Report) -> None:
    # Medians by LoadGen's rule: 11 and 12 ms against 5.5 and 5 ms, so ratios 2.0 and 2.4, mean 2.19. Three queries in
    # 33 or 36 ms, and in 16.5 or 15 ms.
    base, fast = summary_table(report).rows
    assert base == ("base", "INVALID", "12.00", "14.00", "14.00", "87.12", "reference")
    assert fast == (NAME, "INVALID", "5.500", "6.000", "6.000", "190.9", "2.19 (0.69 to 6.98)")


def test_the_cold_start_is_a_figure_with_its_parts(report: Report, full_report: Report) -> None:
    assert start_table(report).rows[0] == ("base", "123", "100", "20", "3.000", "50", "15.0")
    assert start_table(full_report).rows[-1][-1] == "not measured"


def test_stages_and_copies_have_their_waits(full_report: Report) -> None:
    rows = [row[1:] for row in stage_table(full_report).rows if row[0] == GPUS]
    assert rows == [
        ("stream1", "cuda:0/0", "1.000", "4.000", "0.250", "0.125"),
        ("stream2", "cuda:1/0", "0.500", "3.000", "0.000", "0.000"),
        ("join", "cuda:0/0", "6.000", "1.500", "0.500", "0.250"),
        ("image to cuda:0", "cuda:0/0", "0.000", "1.000", "0.000", "0.000"),
        ("stream2 to cuda:0", "cuda:1/0", "3.500", "2.000", "0.000", "0.000"),
    ]


def test_the_sweep_has_a_row_for_each_point(report: Report, full_report: Report) -> None:
    assert sweep_table(report).rows == ()
    assert len(sweep_table(full_report).rows) == 6
    assert sweep_table(full_report).rows[-1] == (GPUS, "4", "8", "32.00", "32.00", "2,828", "128")


def test_the_comparison_is_tabulated(full_report: Report) -> None:
    assert full_report.comparison is not None
    rows = comparison_table(full_report, full_report.comparison).rows
    # Against itself: a slowdown of 1, in an interval of the spread of both.
    assert [(row[0], row[1], row[2], row[4]) for row in rows][:2] == [
        ("base", "10.00 ms", "10.00 ms", "within the noise"),
        (NAME, "4.472 ms", "4.472 ms", "within the noise"),
    ]
    assert rows[1][3].startswith("1.00 (")


def test_table_3_stands_beside_the_contenders_of_its_kind(report: Report) -> None:
    assert paper_table(report).rows == (
        ("unfused", "8.95", "1.00", "base", "12.00", "1.00"),
        ("fused, one device", "6.50", "1.38", "not measured", "", ""),
        ("fused, split in parallel", "4.01", "2.23", NAME, "5.500", "2.19 (0.69 to 6.98)"),
    )


def test_without_an_unfused_plan_there_is_nothing_beside_table_3(report: Report) -> None:
    fused = tuple(entry.model_copy(update={"form": "fused"}) for entry in report.contenders)
    assert paper_table(report.model_copy(update={"contenders": fused})).rows == ()


def test_plans_on_gpus_say_what_crosses_and_how_cuda_is_used(full_report: Report) -> None:
    rows = {row[0]: row[1:] for row in contender_table(full_report).rows}
    assert rows["devices"][-1] == "cuda:0 A GPU of Some Name, cuda:1 A GPU of Some Name"
    assert rows["KiB from device to device"] == ("0.0", "0.0", "500.0")
    assert rows["KiB from and to the host"][-1] == "2.9"
    settings = full_report.settings.model_copy(update={"cuda": CudaOptions(adapter="cuda-bindings", nvtx=True)})
    asked = dict(settings_table(full_report.model_copy(update={"settings": settings})).rows)
    assert asked["CUDA"] == "adapter: cuda-bindings; graphs: auto; NVTX ranges: yes"
    assert asked["pipelines"] == "1 (inferences at once)"


def test_the_server_says_its_targets(report: Report) -> None:
    settings = settings_for("server", target_qps=12.5, target_latency_ms=80.0)
    asked = dict(settings_table(report.model_copy(update={"settings": settings})).rows)
    assert (asked["queries a second"], asked["latency bound"]) == ("12.50", "80.00 ms")
    assert asked["CUDA"] == "no plan on GPUs"


def test_conditions_name_what_was_asked() -> None:
    settings = settings_for("server", target_qps=12.5, target_latency_ms=80.0, concurrency=2, min_queries=10)
    assert conditions(settings, 3) == (
        "3 rounds in turn, each alone in a process; at least 10 queries and 2 s a round;"
        " 12.50 queries a second on average, 99% within 80.00 ms; 2 inferences at once"
    )
    assert "8 samples a query" in conditions(settings_for("multi-stream"), 1)
    assert "at least 64 samples" in conditions(settings_for("offline"), 1)


def test_the_terminal_shows_every_figure(full_report: Report) -> None:
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(rich_report(full_report))
    text = console.export_text()
    for expected in (NAME, "2.19 (0.69 to 6.98)", "5.500", "stream1", "4.500", "within the noise", "2,828", "8.95"):
        assert expected in text
    assert "onnxruntime was 1.0, now 2.0" in text


def test_quiet_leaves_the_findings(full_report: Report) -> None:
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(rich_answer(full_report))
    lines = console.export_text().splitlines()
    assert not any("│" in line for line in lines)
    assert lines[-1].startswith("No difference beyond the noise between ")
    assert any(line.startswith("base against the baseline: ") for line in lines)


def test_markdown_tables_are_whole(full_report: Report, full_pictures: dict[str, Picture]) -> None:
    document = document_of(full_report, full_pictures)
    text = markdown_of(document)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    summary = rows[rows.index(next(row for row in rows if "LoadGen" in row)) :][:4]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in summary} == {8}
    assert summary[1] == "| --- | --- | ---: | ---: | ---: | ---: | ---: |"
    assert r"\<fast\> & \$new\$" in summary[3]
    assert [f"]({picture.name})" in text for picture in document.pictures] == [True] * 6
    assert text.splitlines()[2].startswith("**No difference beyond the noise")


def test_the_page_is_whole_and_asks_nothing_of_the_network(
    full_report: Report, full_pictures: dict[str, Picture]
) -> None:
    document = document_of(full_report, full_pictures)
    page = html_of(document)
    parsed = Tags()
    parsed.feed(page)
    embedded = [value for name, value in parsed.attributes if name in ("src", "srcset", "href") and value]
    without_pictures = page
    for value in embedded:
        without_pictures = without_pictures.replace(value, "")
    assert not re.search(r"https?:|//[a-z]|url\(|@import", without_pictures)
    assert not {"script", "iframe", "fast", "link rel=stylesheet"} & set(parsed.tags)
    assert all(value.startswith("data:") for value in embedded)
    assert ("name", "viewport") in parsed.attributes
    for contender in full_report.contenders:
        assert contender.label in parsed.text
    for part in ("2.19 (0.69 to 6.98)", "stream2 to cuda:0", "processor", "Linux", "ParNet-L on RTX 3090"):
        assert part in parsed.text
    pngs = [value for value in embedded if value.startswith("data:image/png")]
    # Each picture for light and for dark pages.
    assert len(set(pngs)) == 2 * len(document.pictures) == 12
    for value in pngs:
        with Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))) as image:
            assert image.format == "PNG"
            assert image.width > 800


def test_csv_files_hold_every_observation(full_report: Report) -> None:
    tables = {name: list(csv.DictReader(io.StringIO(text))) for name, text in csv_files(full_report).items()}
    assert sorted(tables) == ["latencies.csv", "rounds.csv", "stages.csv", "sweep.csv"]
    latencies = [int(row["latency_ns"]) for row in tables["latencies.csv"] if row["plan"] == "base"]
    assert latencies == [10_000_000, 12_000_000, 11_000_000, 10_000_000, 14_000_000, 12_000_000]
    assert [row["round"] for row in tables["rounds.csv"]] == ["1", "2"] * 3
    first = tables["rounds.csv"][0]
    assert (first["plan"], first["verdict"], float(first["p50_ms"]), float(first["open_ms"])) == (
        "base",
        "INVALID",
        11.0,
        20.0,
    )
    copies = [row for row in tables["stages.csv"] if row["is_copy"] == "1"]
    assert {row["stage"] for row in copies} == {"image to cuda:0", "stream2 to cuda:0"}
    assert {(row["concurrency"], row["batch"]) for row in tables["sweep.csv"]} == {
        (concurrency, batch) for concurrency in "124" for batch in "18"
    }


def test_a_report_comes_back_from_its_folder_as_it_was(full_report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write_report(folder, full_report, force=False)
    assert read_report(folder) == full_report
    assert sorted(path.name for path in folder.iterdir()) == [
        "distribution.png",
        "latencies.csv",
        "percentiles.png",
        "report.html",
        "report.json",
        "report.md",
        "rounds.csv",
        "speed-up.png",
        "stages.csv",
        "sweep.csv",
        "table3.png",
        "throughput.png",
        "timeline.png",
    ]
    with pytest.raises(OutputExistsError):
        write_report(folder, full_report, force=False)


@pytest.mark.parametrize("version", [1, 3])
def test_a_report_of_another_version_is_refused_with_a_remedy(report: Report, tmp_path: Path, version: int) -> None:
    write_manifest(tmp_path / "report.json", report.model_copy(update={"schema_version": version}))
    with pytest.raises(ArtifactError, match=rf"schema version {version}.*reads 2\n  remedy: make the report again"):
        read_report(tmp_path)


def test_contradictory_reports_are_refused(report: Report) -> None:
    content = report.model_dump()
    base, fast = content["contenders"]
    with pytest.raises(ValidationError, match="different labels"):
        Report.model_validate(content | {"contenders": [base, base], "ratios": []})
    with pytest.raises(ValidationError, match="same number of rounds"):
        Report.model_validate(content | {"contenders": [base, fast | {"rounds": fast["rounds"][:1]}]})
    with pytest.raises(ValidationError, match="compare a contender with the first"):
        Report.model_validate(content | {"contenders": [fast, base]})
