"""Arrange a report as a page: the answer, the tables and pictures that support it, then how it was measured."""

from __future__ import annotations

from collections.abc import Mapping

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.document import Block, Bullets, Document, Paragraph, Picture, Pictures, Section, Table
from parnet_deploy.bench.output.findings import answer, comparison_findings, findings
from parnet_deploy.bench.output.tables import (
    comparison_table,
    contender_table,
    machine_table,
    paper_table,
    settings_table,
    stage_table,
    start_table,
    summary_table,
    sweep_table,
)
from parnet_deploy.bench.output.words import conditions

_START = (
    "Cold start: launching a process, opening the plan, the first inference; medians of the rounds. Peak: the resident"
    " memory of the process, without that of GPUs. Harness: the median latency of the same plan with engines that do"
    " nothing, so the part of every latency that LoadGen, the session and its threads take."
)
_STAGES = (
    "Medians of inferences profiled one at a time. Waited: from the moment the stage's inputs were there to its start;"
    " lane busy: the part of it in which the lane ran something else. In the picture a dotted line is a wait, a hatched"
    " bar a copy."
)
_SWEEP = (
    "A closed loop: so many clients each send a batch and the next as soon as it is answered; a pipeline for each"
    " client. Every point is one run, alone in its process, so it has no spread."
)
_PAPER = (
    "The paper measured ParNet-L on GeForce RTX 3090 cards, the split on three of them, with PyTorch 1.8.1. Its"
    " milliseconds belong to that hardware; how much fusing and splitting gain can be set beside this machine's."
)


def document_of(report: Report, pictures: Mapping[str, Picture]) -> Document:
    """Arrange a report with its pictures, by name."""
    asked = conditions(report.settings, len(report.reference.rounds))
    return Document(
        title=f"serve-bench: {report.settings.scenario}",
        answer=answer(report),
        support=findings(report),
        introduction=f"parnet-deploy {report.tool_version}, {report.created}. {asked[0].upper()}{asked[1:]}.",
        sections=tuple(section for section in _sections(report, pictures) if section.blocks),
    )


def _sections(report: Report, pictures: Mapping[str, Picture]) -> list[Section]:
    return [
        Section("Against the baseline", _comparison(report)),
        Section(
            "Latency and throughput",
            (summary_table(report), *_shown(pictures, "speed-up", "distribution", "percentiles")),
        ),
        Section("Start and cost", (start_table(report), Paragraph(_START))),
        Section("Stages", (*_shown(pictures, "timeline"), stage_table(report), Paragraph(_STAGES))),
        Section("Over concurrency and batch", _with_text(_shown(pictures, "throughput"), sweep_table(report), _SWEEP)),
        Section("Beside the paper", _with_text(_shown(pictures, "table3"), paper_table(report), _PAPER)),
        Section("What was measured", (contender_table(report), settings_table(report), machine_table(report))),
    ]


def _comparison(report: Report) -> tuple[Block, ...]:
    found = report.comparison
    if found is None:
        return ()
    compared = (
        f"Compared with the report of {found.created} (parnet-deploy {found.tool_version}),"
        f" {found.tolerance:.0%} slower being no regression."
    )
    notes = (Bullets(found.notes),) if found.notes else ()
    return (Bullets(comparison_findings(found)), comparison_table(report, found), Paragraph(compared), *notes)


def _shown(pictures: Mapping[str, Picture], *names: str) -> tuple[Block, ...]:
    found = tuple(pictures[name] for name in names if name in pictures)
    return (Pictures(found),) if found else ()


def _with_text(shown: tuple[Block, ...], table: Table, text: str) -> tuple[Block, ...]:
    return (*shown, table, Paragraph(text)) if table.rows else ()
