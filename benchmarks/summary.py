"""What the runs of a case say: medians, spreads, ratios by round, share of the machine's peak; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import BASELINE, CUDA_BASELINE, CUDA_PEAK
from benchmarks.contenders.matmul import CUDA_GFLOP, GFLOP
from benchmarks.records import CaseResult, ContenderResult
from parnet_deploy.artifacts.report import Finding
from parnet_deploy.bench.statistics import finding_of


@dataclass(frozen=True)
class Speedup:
    """How many times faster, round by round: over 1 is faster."""

    median: float
    least: float
    most: float
    finding: Finding

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass(frozen=True)
class Line:
    """A contender in a case; latencies are medians of a run's requests, `ms` the median of the rounds' medians."""

    name: str
    role: str
    precision: str
    ms: float
    least_ms: float
    most_ms: float
    gflop_s: float
    share_of_peak: float | None
    against_baseline: Speedup | None
    device_ms: float | None
    cold_start_ms: float
    peak_mib: float
    difference: float | None


def milliseconds(value: float) -> str:
    """Write milliseconds with three figures or more."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def round_medians(result: ContenderResult) -> list[float]:
    """Return the median latency of each round in milliseconds."""
    return [run.latency.p50_ms for run in result.runs]


def speedup(contender: Sequence[float], baseline: Sequence[float]) -> Speedup:
    """Compare two contenders' rounds, each with the other's of the same turn."""
    ratios = [other / mine for mine, other in zip(contender, baseline, strict=True)]
    return Speedup(median(ratios), min(ratios), max(ratios), finding_of(ratios))


def peak_gflop_s(case: CaseResult) -> float | None:
    """Return what the large matrix product of the same rounds reached."""
    found = next((entry for entry in case.contenders if entry.role == "peak" and entry.runs), None)
    if found is None:
        return None
    gflop = CUDA_GFLOP if found.name == CUDA_PEAK.name else GFLOP
    return gflop / median(round_medians(found)) * 1e3


def baseline_of(case: CaseResult) -> ContenderResult | None:
    """Return what a user would pick without this tool, with which others are compared; None if it did not run."""
    return next((entry for entry in case.contenders if entry.name in (BASELINE, CUDA_BASELINE) and entry.runs), None)


def lines_of(case: CaseResult) -> list[Line]:
    """Return every contender that ran, the fastest first."""
    peak = peak_gflop_s(case)
    ran = [entry for entry in case.contenders if entry.runs and entry.role != "peak"]
    baseline = baseline_of(case)
    return sorted((_line(case, entry, peak, baseline) for entry in ran), key=lambda line: line.ms)


def _line(case: CaseResult, entry: ContenderResult, peak: float | None, baseline: ContenderResult | None) -> Line:
    medians = round_medians(entry)
    gflop_s = case.gflop / median(medians) * 1e3
    differences = [run.difference for run in entry.runs if run.difference is not None]
    on_device = [run.device_ms for run in entry.runs if run.device_ms is not None]
    return Line(
        name=entry.name,
        role=entry.role,
        precision=entry.precision,
        ms=median(medians),
        least_ms=min(medians),
        most_ms=max(medians),
        gflop_s=gflop_s,
        share_of_peak=None if peak is None else gflop_s / peak,
        against_baseline=None if baseline in (None, entry) else speedup(medians, round_medians(baseline)),
        device_ms=median(on_device) if on_device else None,
        cold_start_ms=median(run.process_ms + run.open_ms + run.first_ms for run in entry.runs),
        peak_mib=max(run.peak_bytes for run in entry.runs) / 2**20,
        difference=max(differences, default=None),
    )


def best(lines: Sequence[Line], role: str, precision: str | None = "fp32") -> Line | None:
    """Return the fastest line of a role, of one precision or of any."""
    return next((line for line in lines if line.role == role and precision in (None, line.precision)), None)


def compare(case: CaseResult, contender: str, other: str) -> Speedup:
    """Compare two contenders of a case by name."""
    entries = {entry.name: entry for entry in case.contenders}
    return speedup(round_medians(entries[contender]), round_medians(entries[other]))
