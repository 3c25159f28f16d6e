"""Write a report as a folder: `report.json` is the truth, everything else is drawn from it."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import holds, replacing_folder, write_manifest
from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.csv_files import csv_files
from parnet_deploy.bench.output.plots import report_pictures
from parnet_deploy.bench.output.report_document import document_of
from parnet_deploy.reporting.publish import write_page


def write_report(folder: Path, report: Report, *, force: bool) -> None:
    """Write JSON, CSV, Markdown, the pictures and the HTML page into `folder`, whole or not at all.

    Raises:
        OutputExistsError: `folder` exists and `force` is not set.
        ArtifactError: the folder cannot be written.
        MissingDependencyError: matplotlib or Jinja is not installed.
    """
    document = document_of(report, report_pictures(report))
    with replacing_folder(folder, force=force, is_ours=holds("report.json")) as temporary:
        write_manifest(temporary / "report.json", report)
        for name, text in csv_files(report).items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        write_page(temporary, document)
