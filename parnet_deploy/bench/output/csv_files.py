"""The figures of a report as CSV, one row per observation, for spreadsheets and data frames."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from parnet_deploy.artifacts.measurements import LatencyStatistics
from parnet_deploy.artifacts.report import Report

_LATENCY = ("min_ms", "mean_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms")
_STAGE = ("start_ms", "duration_ms", "wait_ms", "lane_busy_ms")


def csv_files(report: Report) -> dict[str, str]:
    """Return the content of each file by its name: rounds, latencies, stages, and a sweep if there was one."""
    files = {"rounds.csv": _rounds(report), "latencies.csv": _latencies(report), "stages.csv": _stages(report)}
    if any(contender.sweep for contender in report.contenders):
        files["sweep.csv"] = _sweep(report)
    return files


def _rounds(report: Report) -> str:
    cold_start = ("process_ms", "open_ms", "first_answer_ms")
    columns = ("plan", "round", "verdict", "queries", "samples", *_LATENCY, "samples_per_second")
    rows = (
        (
            contender.label,
            number,
            entry.verdict,
            entry.query_count,
            entry.sample_count,
            *_values(entry.latency),
            entry.samples_per_second,
            *(getattr(entry.cold_start, name) for name in cold_start),
            entry.peak_memory_bytes,
        )
        for contender in report.contenders
        for number, entry in enumerate(contender.rounds, start=1)
    )
    return _text((*columns, *cold_start, "peak_memory_bytes"), rows)


def _latencies(report: Report) -> str:
    rows = (
        (contender.label, number, query, latency_ns)
        for contender in report.contenders
        for number, entry in enumerate(contender.rounds, start=1)
        for query, latency_ns in enumerate(entry.latencies_ns)
    )
    return _text(("plan", "round", "query", "latency_ns"), rows)


def _stages(report: Report) -> str:
    rows = (
        (
            contender.label,
            number,
            stage.stage,
            stage.lane,
            int(stage.is_copy),
            *(getattr(stage, name) for name in _STAGE),
        )
        for contender in report.contenders
        for number, entry in enumerate(contender.rounds, start=1)
        for stage in entry.stages
    )
    return _text(("plan", "round", "stage", "lane", "is_copy", *_STAGE), rows)


def _sweep(report: Report) -> str:
    rows = (
        (
            contender.label,
            point.concurrency,
            point.batch,
            point.latency.count,
            *_values(point.latency),
            point.samples_per_second,
            point.peak_memory_bytes,
        )
        for contender in report.contenders
        for point in contender.sweep
    )
    columns = ("plan", "concurrency", "batch", "batches", *_LATENCY, "samples_per_second", "peak_memory_bytes")
    return _text(columns, rows)


def _values(latency: LatencyStatistics) -> tuple[float, ...]:
    return tuple(getattr(latency, name) for name in _LATENCY)


def _text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return buffer.getvalue()
