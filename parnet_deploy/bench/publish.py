"""Write a report as a folder: `report.json` is the truth, everything else is drawn from it."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import replacing_folder, write_manifest
from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.plots import latency_plot_png
from parnet_deploy.bench.render import PLOT_NAME, html_report, markdown_report


def write_report(folder: Path, report: Report, *, force: bool) -> None:
    """Write JSON, Markdown, the plot and the HTML page into `folder`, whole or not at all.

    Raises:
        OutputExistsError: `folder` exists and `force` is not set.
        ArtifactError: the folder cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    plot_png = latency_plot_png(report)
    with replacing_folder(folder, force=force) as temporary:
        write_manifest(temporary / "report.json", report)
        (temporary / "report.md").write_text(markdown_report(report), encoding="utf-8")
        (temporary / PLOT_NAME).write_bytes(plot_png)
        (temporary / "report.html").write_text(html_report(report, plot_png), encoding="utf-8")
