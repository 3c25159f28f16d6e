"""Write a report as a folder: `report.json` is the truth, everything else is drawn from it."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import replacing_folder, write_manifest
from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.csv_files import csv_files
from parnet_deploy.bench.output.html import html_of, import_jinja2
from parnet_deploy.bench.output.markdown import markdown_of
from parnet_deploy.bench.output.plots import report_pictures
from parnet_deploy.bench.output.plots.style import import_matplotlib
from parnet_deploy.bench.output.report_document import document_of


def check_publishing() -> None:
    """Raise `MissingDependencyError` if what draws a report is not installed."""
    import_matplotlib()
    import_jinja2()


def write_report(folder: Path, report: Report, *, force: bool) -> None:
    """Write JSON, CSV, Markdown, the pictures and the HTML page into `folder`, whole or not at all.

    Raises:
        OutputExistsError: `folder` exists and `force` is not set.
        ArtifactError: the folder cannot be written.
        MissingDependencyError: matplotlib or Jinja is not installed.
    """
    document = document_of(report, report_pictures(report))
    page = html_of(document)
    with replacing_folder(folder, force=force) as temporary:
        write_manifest(temporary / "report.json", report)
        for name, text in {**csv_files(report), "report.md": markdown_of(document), "report.html": page}.items():
            (temporary / name).write_text(text, encoding="utf-8", newline="\n")
        for picture in document.pictures:
            (temporary / picture.name).write_bytes(picture.light_png)
