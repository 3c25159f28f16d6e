"""Write a verification as a folder: `report.json` is the truth, everything else is drawn from it."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import replacing_folder, write_manifest
from parnet_deploy.artifacts.verification import Verification
from parnet_deploy.checks.picture import differences_png
from parnet_deploy.checks.render import PICTURE_NAME, html_report, markdown_report


def write_report(folder: Path, verification: Verification, *, force: bool) -> None:
    """Write JSON, Markdown, the picture and the HTML page into `folder`, whole or not at all.

    Raises:
        OutputExistsError: `folder` exists and `force` is not set.
        ArtifactError: the folder cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    picture_png = differences_png(verification)
    with replacing_folder(folder, force=force) as temporary:
        write_manifest(temporary / "report.json", verification)
        (temporary / "report.md").write_text(markdown_report(verification), encoding="utf-8")
        (temporary / PICTURE_NAME).write_bytes(picture_png)
        (temporary / "report.html").write_text(html_report(verification, picture_png), encoding="utf-8")
