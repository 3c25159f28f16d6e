"""Logs in LoadGen's format, written by hand with known numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.bench.loadgen_log import parse_detail, parse_trace, per_query_latencies, read_measurement
from parnet_deploy.errors import InferenceError

# (query, sample, latency in ns) of two queries of two samples each, in the order of completion.
SAMPLES = ((0, 1, 400), (0, 0, 300), (1, 2, 500), (1, 3, 200))


def detail_line(key: str, value: Any, *, is_error: bool = False) -> str:
    return ":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": {"is_error": is_error}})


def trace_line(query: int, sample: int, latency_ns: int) -> str:
    arguments = (
        f'"sample_seq":{sample},"query_seq":{query},"sample_idx":0,"issue_start_ns":0,"complete_ns":{latency_ns}'
    )
    return f'{{"name":"Sample","cat":"default","ph":"b","pid":1,"id":{sample},"ts":1.0,"args":{{{arguments}}}}},'


def write_logs(folder: Path, **changes: Any) -> Path:
    """Write the logs of a valid multi-stream run over `SAMPLES`, with some results changed."""
    results: dict[str, Any] = {
        "result_validity": "VALID",
        "result_min_duration_met": True,
        "result_min_queries_met": True,
        "early_stopping_met": True,
        "early_stopping_result": " * Run  successful.",
        "result_query_count": 2,
        "result_mean_query_latency_ns": 450,
        "result_min_query_latency_ns": 400,
        "result_max_query_latency_ns": 500,
        "result_50.00_percentile_per_query_latency_ns": 500,
        "result_90.00_percentile_per_query_latency_ns": 500,
        "result_99.00_percentile_per_query_latency_ns": 500,
    } | changes
    lines = ["free text", *(detail_line(key, value) for key, value in results.items())]
    (folder / "mlperf_log_detail.txt").write_text("\n".join(lines))
    trace = [
        '{"traceEvents":[',
        '{"name":"LogDetail","args":{"key":""loadgen_version""}},',
        *(trace_line(*sample) for sample in SAMPLES),
    ]
    (folder / "mlperf_log_trace.json").write_text("\n".join(trace))
    return folder


def test_a_multi_stream_query_takes_as_long_as_its_last_sample(tmp_path: Path) -> None:
    measured = read_measurement(write_logs(tmp_path), "multi-stream")
    assert measured.latencies_ns == (400, 500)
    assert (measured.query_count, measured.sample_count) == (2, 4)
    assert measured.samples_per_second == pytest.approx(4 / 900e-9)
    assert measured.is_valid
    assert measured.reasons == ()


def test_samples_come_back_in_the_order_of_issue() -> None:
    found = parse_trace("\n".join(trace_line(*sample) for sample in SAMPLES))
    assert found == [(0, 0, 300), (0, 1, 400), (1, 2, 500), (1, 3, 200)]
    assert per_query_latencies(found) == [400, 500]


def test_an_invalid_run_says_what_it_lacks(tmp_path: Path) -> None:
    folder = write_logs(
        tmp_path,
        result_validity="INVALID",
        result_perf_constraints_met=False,
        result_min_duration_met=False,
        result_min_queries_met=False,
        early_stopping_met=False,
        early_stopping_result=" * Only processed 2 queries.  * Need to process at least 662 queries.",
    )
    measured = read_measurement(folder, "multi-stream")
    assert not measured.is_valid
    assert measured.reasons == (
        "the latency constraint was not met",
        "the minimum duration was not reached",
        "the minimum number of queries was not reached",
        "early stopping: Only processed 2 queries. Need to process at least 662 queries.",
    )


@pytest.mark.parametrize(
    "key",
    [
        "result_mean_query_latency_ns",
        "result_min_query_latency_ns",
        "result_max_query_latency_ns",
        "result_50.00_percentile_per_query_latency_ns",
        "result_90.00_percentile_per_query_latency_ns",
        "result_99.00_percentile_per_query_latency_ns",
    ],
)
def test_statistics_that_differ_from_the_trace_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(InferenceError, match="states a"):
        read_measurement(write_logs(tmp_path, **{key: 499}), "multi-stream")


def test_a_throughput_that_differs_from_the_trace_is_refused(tmp_path: Path) -> None:
    per_sample = {
        "result_mean_latency_ns": 350,
        "result_min_latency_ns": 200,
        "result_max_latency_ns": 500,
        "result_50.00_percentile_latency_ns": 400,
        "result_90.00_percentile_latency_ns": 500,
        "result_99.00_percentile_latency_ns": 500,
    }
    good = write_logs(tmp_path, result_samples_per_second=8.0e6, **per_sample)
    assert read_measurement(good, "offline").samples_per_second == pytest.approx(8.0e6)
    with pytest.raises(InferenceError, match="samples per second"):
        read_measurement(write_logs(tmp_path, result_samples_per_second=8.1e6, **per_sample), "offline")


def test_a_run_with_an_error_of_loadgen_is_invalid(tmp_path: Path) -> None:
    write_logs(tmp_path)
    with (tmp_path / "mlperf_log_detail.txt").open("a") as file:
        file.write("\n" + detail_line("error_runtime", "ran out of queries", is_error=True))
    measured = read_measurement(tmp_path, "multi-stream")
    assert not measured.is_valid
    assert measured.reasons == ("ran out of queries",)


def test_a_log_without_a_result_is_refused() -> None:
    with pytest.raises(InferenceError, match="no result"):
        parse_detail(detail_line("loadgen_version", "6"))


def test_a_trace_without_samples_is_refused(tmp_path: Path) -> None:
    write_logs(tmp_path)
    (tmp_path / "mlperf_log_trace.json").write_text('{"traceEvents":[')
    with pytest.raises(InferenceError, match="no sample"):
        read_measurement(tmp_path, "single-stream")
