"""Table 3 of the paper ("Non-deep Networks", arXiv 2110.07641) beside what was measured here.

The paper measured ParNet-L on GeForce RTX 3090 cards with PyTorch 1.8.1 and CUDA 11.1. Milliseconds of different
hardware do not compare; how much fusing and splitting gain can be set side by side.
"""

from __future__ import annotations

from dataclasses import dataclass

from parnet_deploy.artifacts.report import Contender, Interval, Report
from parnet_deploy.bench.statistics import headline_metric, paired_ratio, round_values

PAPER_HARDWARE = "ParNet-L on RTX 3090"


@dataclass(frozen=True)
class PaperRow:
    """A row of table 3."""

    name: str
    latency_ms: float

    @property
    def speed_up(self) -> float:
        """How many times as fast as the first row."""
        return PAPER_ROWS[0].latency_ms / self.latency_ms


PAPER_ROWS = (
    PaperRow("unfused", 8.95),
    PaperRow("fused, one device", 6.50),
    PaperRow("fused, split in parallel", 4.01),
)


@dataclass(frozen=True)
class Beside:
    """A contender of the kind of a row of table 3, with its speed-up over the unfused one."""

    row: PaperRow
    contender: Contender
    mean: float
    interval: Interval | None


def beside_the_paper(report: Report) -> tuple[Beside, ...]:
    """Match contenders with the rows of table 3; nothing without an unfused contender and another."""
    rows = [(entry, _row_of(entry)) for entry in report.contenders]
    unfused = next((entry for entry, row in rows if row is PAPER_ROWS[0]), None)
    matched = [(entry, row) for entry, row in rows if row is not None]
    if unfused is None or len(matched) < 2:
        return ()
    metric = headline_metric(report.settings.scenario)
    reference = round_values(unfused.rounds, metric)
    found = []
    for paper_row in PAPER_ROWS:
        for entry, row in matched:
            if row is paper_row:
                values = round_values(entry.rounds, metric)
                ratio = paired_ratio(entry.label, unfused.label, metric, values, reference)
                found.append(Beside(row, entry, ratio.mean, None if entry is unfused else ratio.interval))
    return tuple(found)


def _row_of(contender: Contender) -> PaperRow | None:
    if contender.partition == "whole":
        return PAPER_ROWS[0] if contender.form == "training" else PAPER_ROWS[1]
    return PAPER_ROWS[2] if contender.form == "fused" else None
