"""Read what LoadGen wrote about a run: the verdict and statistics of its detail log, the latencies of its trace."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.measurements import Scenario
from parnet_deploy.bench.statistics import percentile_of_sorted
from parnet_deploy.errors import InferenceError

_PREFIX = ":::MLLOG "
_WANTED_KEY = re.compile(r'"key": "(result_|early_stopping_|error_)')
# One line of the trace per completed sample; the trace as a whole is not valid JSON.
_SAMPLE = re.compile(r'"name":"Sample".*"sample_seq":(\d+),"query_seq":(\d+),.*"complete_ns":(\d+)')

# Where LoadGen states its own throughput, and how far its truncated integers may put it from ours.
_THROUGHPUT_KEYS: dict[Scenario, str] = {
    "single-stream": "result_qps_without_loadgen_overhead",
    "offline": "result_samples_per_second",
    "server": "result_completed_samples_per_sec",
}
_THROUGHPUT_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Measurement:
    """One run as LoadGen saw it; `latencies_ns` as described in `BenchRound`."""

    is_valid: bool
    reasons: tuple[str, ...]
    query_count: int
    sample_count: int
    latencies_ns: tuple[int, ...]
    samples_per_second: float


def read_measurement(folder: Path, scenario: Scenario) -> Measurement:
    """Read the logs of a run and check LoadGen's statistics against the latencies of its trace.

    A run during which LoadGen reported an error is not valid, whatever the verdict.

    Raises:
        InferenceError: there is no result, or its statistics are not those of the latencies.
    """
    results, errors = parse_detail((folder / "mlperf_log_detail.txt").read_text())
    samples = parse_trace((folder / "mlperf_log_trace.json").read_text())
    latencies = per_query_latencies(samples) if scenario == "multi-stream" else [entry[2] for entry in samples]
    _check_latencies(results, latencies, per_query=scenario == "multi-stream")
    return Measurement(
        is_valid=results["result_validity"] == "VALID" and not errors,
        reasons=(*errors, *_reasons(results)),
        query_count=results["result_query_count"],
        sample_count=len(samples),
        latencies_ns=tuple(latencies),
        samples_per_second=_throughput(results, scenario, len(samples), latencies),
    )


def parse_detail(text: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the results of a detail log by key, and the errors that LoadGen reported.

    Raises:
        InferenceError: the log holds no result.
    """
    results: dict[str, Any] = {}
    errors = []
    for line in text.splitlines():
        if not line.startswith(_PREFIX) or not _WANTED_KEY.search(line):
            continue
        entry = json.loads(line[len(_PREFIX) :])
        if entry["metadata"]["is_error"]:
            errors.append(str(entry["value"]))
        else:
            results[entry["key"]] = entry["value"]
    if "result_validity" not in results:
        raise InferenceError("LoadGen wrote no result")
    return results, tuple(errors)


def parse_trace(text: str) -> list[tuple[int, int, int]]:
    """Return (query, sample, latency in ns) of every completed sample, in the order of issue."""
    found = (_SAMPLE.search(line) for line in text.splitlines())
    return sorted((int(match[2]), int(match[1]), int(match[3])) for match in found if match)


def per_query_latencies(samples: Sequence[tuple[int, int, int]]) -> list[int]:
    """Return the latency of each query: that of its last sample."""
    latest: dict[int, int] = {}
    for query, _, latency_ns in samples:
        latest[query] = max(latency_ns, latest.get(query, 0))
    return [latest[query] for query in sorted(latest)]


def _check_latencies(results: dict[str, Any], latencies: Sequence[int], *, per_query: bool) -> None:
    """Compare the statistics that LoadGen computed with those of the latencies; both are integers in nanoseconds."""
    ordered = sorted(latencies)
    if not ordered:
        raise InferenceError("LoadGen's trace holds no sample")
    ours = {"mean": sum(ordered) // len(ordered), "min": ordered[0], "max": ordered[-1]}
    ours |= {f"{percent}.00_percentile": percentile_of_sorted(ordered, percent / 100) for percent in (50, 90, 99)}
    for name, value in ours.items():
        infix = ("_per_query" if "percentile" in name else "_query") if per_query else ""
        stated = results.get(f"result_{name}{infix}_latency_ns")
        if stated != value:
            raise InferenceError(f"LoadGen states a {name} latency of {stated} ns, its trace gives {value} ns")


def _throughput(results: dict[str, Any], scenario: Scenario, sample_count: int, latencies: Sequence[int]) -> float:
    """Return samples per second: LoadGen's own in the server scenario, elsewhere exact and checked against LoadGen's.

    One query at a time (single-stream, multi-stream): samples over the sum of the latencies. Offline: samples over the
    longest latency.
    """
    key = _THROUGHPUT_KEYS.get(scenario)
    stated = None if key is None else float(results[key])
    if scenario == "server" and stated is not None:
        return stated
    ours = sample_count * 1e9 / (max(latencies) if scenario == "offline" else sum(latencies))
    if stated is not None and abs(stated - ours) > _THROUGHPUT_TOLERANCE * ours:
        raise InferenceError(f"LoadGen states {stated} samples per second, its trace gives {ours:.6g}")
    return ours


def _reasons(results: dict[str, Any]) -> tuple[str, ...]:
    """Say what an invalid run lacked, in LoadGen's words where it has some."""
    if results["result_validity"] == "VALID":
        return ()
    reasons = []
    if not results.get("result_perf_constraints_met", True):
        reasons.append("the latency constraint was not met")
    if not results["result_min_duration_met"]:
        reasons.append("the minimum duration was not reached")
    if not results["result_min_queries_met"]:
        reasons.append("the minimum number of queries was not reached")
    if not results["early_stopping_met"]:
        reasons.append("early stopping: " + " ".join(str(results["early_stopping_result"]).replace("*", "").split()))
    return tuple(reasons)
