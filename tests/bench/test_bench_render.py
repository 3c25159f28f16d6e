"""What a report looks like in each form, from known numbers."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

from parnet_deploy.artifacts.report import Report, read_report
from parnet_deploy.bench.plots import latency_plot_png
from parnet_deploy.bench.publish import write_report
from parnet_deploy.bench.render import html_report, markdown_report, rich_report
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.tables import conditions, findings, summary_table
from parnet_deploy.errors import ArtifactError, OutputExistsError

NAME = "<fast> & $new$"


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
    # Medians by LoadGen's rule: 11 and 12 ms against 5.5 and 5 ms, so ratios 2.0 and 2.4, median 2.2.
    base, fast = summary_table(report).rows
    assert base == ("base", "INVALID", "11.50", "12.00", "14.00", "14.00", "100.0", "baseline", "123", "50")
    assert fast == (NAME, "INVALID", "5.250", "5.500", "6.000", "6.000", "100.0", "2.20 (2.00 to 2.40)", "123", "50")


def test_findings_are_sentences(report: Report) -> None:
    # Two rounds leave one degree of freedom: t = 12.7, so even 2.0 and 2.4 could be chance.
    assert findings(report)[0] == (
        f"the difference between {NAME} and base is within the noise: speed-up 2.20 (2.00 to 2.40) by median latency"
    )
    assert "LoadGen calls 2 of 2 rounds of base invalid: early stopping: too few queries" in findings(report)


@pytest.mark.parametrize(
    ("finding", "sentence"),
    [
        ("faster", f"{NAME} is faster than base: speed-up 2.20 (2.00 to 2.40) by median latency"),
        ("slower", f"{NAME} is slower than base: speed-up 2.20 (2.00 to 2.40) by median latency"),
        (
            "one round",
            f"{NAME} against base: speed-up 2.20 by median latency, of one round,"
            " so nothing tells how much of it is noise",
        ),
    ],
)
def test_each_finding_has_its_sentence(report: Report, finding: str, sentence: str) -> None:
    ratios = tuple(ratio.model_copy(update={"finding": finding}) for ratio in report.ratios)
    assert findings(report.model_copy(update={"ratios": ratios}))[0] == sentence


def test_conditions_name_what_was_asked() -> None:
    settings = settings_for("server", target_qps=12.5, target_latency_ms=80.0, concurrency=2, min_queries=10)
    assert conditions(settings, 3) == (
        "3 rounds in turn, each alone in a process; at least 10 queries and 3 s a round;"
        " 12.50 queries a second on average, 99% within 80.00 ms; 2 inferences at once"
    )
    assert "8 samples a query" in conditions(settings_for("multi-stream"), 1)
    assert "at least 64 samples" in conditions(settings_for("offline"), 1)


def test_the_terminal_shows_every_figure(report: Report) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rich_report(report))
    text = console.export_text()
    for expected in (NAME, "2.20 (2.00 to 2.40)", "5.250", "stream1", "4.500", "within the noise"):
        assert expected in text


def test_markdown_tables_are_whole(report: Report) -> None:
    text = markdown_report(report)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    summary = rows[:4]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in summary} == {11}
    assert r"\<fast\> & \$new\$" in summary[3]
    assert "![latencies](latencies.png)" in text


def test_the_page_is_whole_and_asks_nothing_of_the_network(report: Report) -> None:
    png = latency_plot_png(report)
    page = html_report(report, png)
    parsed = Tags()
    parsed.feed(page)
    assert not re.search(r"https?://|//[a-z]", page.replace(base64.b64encode(png).decode(), ""))
    assert not {"script", "iframe", "fast"} & set(parsed.tags)
    references = [value for name, value in parsed.attributes if name in ("src", "href")]
    assert all(value is not None and value.startswith("data:") for value in references)
    assert ("name", "viewport") in parsed.attributes
    for contender in report.contenders:
        assert contender.label in parsed.text
    for part in ("2.20 (2.00 to 2.40)", "stream1", "processor", "Linux"):
        assert part in parsed.text
    embedded = next(value for value in references if value is not None and value.startswith("data:image/png"))
    with Image.open(io.BytesIO(base64.b64decode(embedded.partition(",")[2]))) as image:
        assert image.format == "PNG"
        assert image.width > 600


@pytest.mark.parametrize("latencies_ns", [(5_000_000,), (0, 0), (1_000, 10**9)])
def test_extreme_latencies_can_be_drawn(report: Report, latencies_ns: tuple[int, ...]) -> None:
    contenders = tuple(
        contender.model_copy(
            update={
                "label": f"_{contender.label}",
                "rounds": tuple(entry.model_copy(update={"latencies_ns": latencies_ns}) for entry in contender.rounds),
            }
        )
        for contender in report.contenders
    )
    png = latency_plot_png(report.model_copy(update={"contenders": contenders}))
    with Image.open(io.BytesIO(png)) as image:
        # Not blank: the curves are there in colour.
        assert len(image.convert("RGB").getcolors(maxcolors=2**20) or []) > 50


def test_a_report_comes_back_from_its_folder_as_it_was(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report", report, force=False)
    assert read_report(tmp_path / "report") == report
    with pytest.raises(OutputExistsError):
        write_report(tmp_path / "report", report, force=False)
    write_report(tmp_path / "report", report, force=True)
    assert read_report(tmp_path / "report") == report


def test_a_report_of_another_version_is_refused(report: Report, tmp_path: Path) -> None:
    write_report(tmp_path / "report", report, force=False)
    path = tmp_path / "report" / "report.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(ArtifactError, match="schema version 2"):
        read_report(tmp_path / "report")


def test_contradictory_reports_are_refused(report: Report) -> None:
    content = report.model_dump()
    base, fast = content["contenders"]
    with pytest.raises(ValidationError, match="different labels"):
        Report.model_validate(content | {"contenders": [base, base], "ratios": []})
    with pytest.raises(ValidationError, match="same number of rounds"):
        Report.model_validate(content | {"contenders": [base, fast | {"rounds": fast["rounds"][:1]}]})
    with pytest.raises(ValidationError, match="compare a contender with the first"):
        Report.model_validate(content | {"contenders": [fast, base]})
