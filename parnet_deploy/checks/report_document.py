"""Arrange a verification as a page, and lay its tables out for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from parnet_deploy.artifacts.verification import Verification
from parnet_deploy.checks.tables import artefact_table, change_table, environment_table, layer_table, tensor_table
from parnet_deploy.checks.verification import findings, verdict
from parnet_deploy.reporting.document import Document, Picture, Pictures, Section, Table
from parnet_deploy.reporting.terminal import rich_table

if TYPE_CHECKING:
    from rich.console import RenderableType


def rich_verification(verification: Verification, *, has_layers: bool = True) -> RenderableType:
    """Return the tables, with or without that of the layers, the findings and the verdict for a terminal."""
    from rich.console import Group
    from rich.text import Text

    tables = [tensor_table(verification), *_layers(verification, is_shown=has_layers), *_changes(verification)]
    sentences = [Text(sentence) for sentence in findings(verification)]
    return Group(*(rich_table(table) for table in tables), *sentences, Text(verdict(verification), style="bold"))


def document_of(verification: Verification, picture: Picture) -> Document:
    """Arrange a verification with the picture of its layers."""
    bound = verification.tolerance
    allowed = f"Tolerance for {bound.precision}: {bound.reason}" if bound.reason else "Tolerance as it was asked for."
    layers = _layers(verification, is_shown=True)
    sections = (
        Section("Answers", (tensor_table(verification),)),
        Section("Difference by layer", (Pictures((picture,)), *layers)),
        Section("Against the golden file", _changes(verification)),
        Section("What was compared", (artefact_table(verification), environment_table(verification))),
    )
    return Document(
        title=f"verify: {verification.b.name} against {verification.a.name}",
        answer=verdict(verification),
        support=findings(verification),
        introduction=f"parnet-deploy {verification.environment.tool_version}, {verification.created}. {allowed}",
        sections=tuple(section for section in sections if section.blocks),
    )


def _layers(verification: Verification, *, is_shown: bool) -> tuple[Table, ...]:
    return (layer_table(verification),) if is_shown and verification.comparisons[0].layers else ()


def _changes(verification: Verification) -> tuple[Table, ...]:
    return (change_table(verification),) if verification.changes else ()
