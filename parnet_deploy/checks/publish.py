"""Write a verification as a folder: `report.json` is the truth, everything else is drawn from it."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.artifacts.files import holds, replacing_folder, write_manifest
from parnet_deploy.artifacts.verification import Verification
from parnet_deploy.checks.picture import differences_picture
from parnet_deploy.checks.report_document import document_of
from parnet_deploy.reporting.publish import write_page


def write_report(folder: Path, verification: Verification, *, force: bool) -> None:
    """Write JSON, Markdown, the picture and the HTML page into `folder`, whole or not at all.

    Raises:
        OutputExistsError: `folder` exists and `force` is not set.
        ArtifactError: the folder cannot be written.
        MissingDependencyError: matplotlib or Jinja is not installed.
    """
    document = document_of(verification, differences_picture(verification))
    with replacing_folder(folder, force=force, is_ours=holds("report.json")) as temporary:
        write_manifest(temporary / "report.json", verification)
        write_page(temporary, document)
