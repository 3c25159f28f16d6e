"""Settings of the scenarios: defaults, what is refused, and how LoadGen's own settings follow."""

from __future__ import annotations

from typing import Any

import pytest

from parnet_deploy.bench.loadgen import _test_settings, import_loadgen
from parnet_deploy.bench.scenarios import SCENARIOS, settings_for, with_server_targets
from parnet_deploy.errors import InferenceError


@pytest.mark.parametrize(
    ("scenario", "queries", "samples", "percentile"),
    [("single-stream", 64, 1, 0.9), ("multi-stream", 16, 8, 0.99), ("server", 64, 1, 0.99), ("offline", 64, 1, 0.99)],
)
def test_defaults(scenario: Any, queries: int, samples: int, percentile: float) -> None:
    settings = settings_for(scenario)
    assert (settings.min_query_count, settings.samples_per_query) == (queries, samples)
    assert (settings.target_percentile, settings.min_duration_ms) == (percentile, 2000)


def test_every_scenario_has_defaults() -> None:
    assert [settings_for(scenario).scenario for scenario in SCENARIOS] == list(SCENARIOS)


@pytest.mark.parametrize(
    ("scenario", "settings", "message"),
    [
        ("closed", {}, "unknown scenario 'closed'"),
        ("offline", {"samples_per_query": 4}, "only in the multi-stream scenario"),
        ("single-stream", {"target_qps": 5.0}, "only in the server scenario"),
        ("offline", {"target_latency_ms": 5.0}, "only in the server scenario"),
        ("server", {"target_qps": 0.0}, "must be a positive number"),
        ("server", {"target_latency_ms": float("nan")}, "must be a positive number"),
        ("server", {"target_qps": float("inf")}, "must be a positive number"),
        ("server", {"concurrency": 0}, "at least 1"),
        ("single-stream", {"duration_ms": 0}, "at least 1"),
        ("single-stream", {"min_queries": 1}, "at least 2"),
    ],
)
def test_bad_settings_are_refused(scenario: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        settings_for(scenario, **settings)


def test_server_targets_follow_from_the_unloaded_latency() -> None:
    settings = with_server_targets(settings_for("server", concurrency=2), latency_ms=20.0)
    assert settings.target_qps == 50.0
    assert settings.target_latency_ms == 200.0


def test_given_server_targets_are_kept() -> None:
    settings = settings_for("server", target_qps=7.0, target_latency_ms=90.0)
    assert with_server_targets(settings, latency_ms=20.0) == settings


def test_server_targets_stay_within_what_threads_can_hand_over() -> None:
    settings = with_server_targets(settings_for("server"), latency_ms=0.01)
    assert settings.target_qps == 500.0
    assert settings.target_latency_ms == 10.0


def test_other_scenarios_get_no_targets() -> None:
    settings = settings_for("offline")
    assert with_server_targets(settings, latency_ms=20.0) == settings


def test_settings_reach_loadgen() -> None:
    loadgen = import_loadgen()
    settings = settings_for("multi-stream", min_queries=10, duration_ms=70, samples_per_query=3)
    result = _test_settings(loadgen, settings, 4.0)
    assert result.scenario == loadgen.TestScenario.MultiStream
    assert result.mode == loadgen.TestMode.PerformanceOnly
    assert (result.min_query_count, result.min_duration_ms, result.multi_stream_samples_per_query) == (10, 70, 3)
    # Half of the expected 4 ms, so that LoadGen prepares twice the queries.
    assert result.multi_stream_expected_latency_ns == 2_000_000
    server = _test_settings(loadgen, settings_for("server", target_qps=50.0, target_latency_ms=30.0), 4.0)
    assert (server.server_target_qps, server.server_target_latency_ns) == (50.0, 30_000_000)
    assert server.server_target_latency_percentile == 0.99
    offline = _test_settings(loadgen, settings_for("offline", concurrency=2), 4.0)
    assert offline.offline_expected_qps == 500.0


@pytest.mark.parametrize(
    "asked",
    [
        {"min_queries": 10_000_001},
        {"duration_ms": 604_800_001},
        # 2 s at 5,000,001 queries a second.
        {"target_qps": 5_000_001.0},
        {"target_qps": 101.0, "duration_ms": 100_000_000},
    ],
)
def test_a_run_that_would_not_end_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(InferenceError, match="is too long"):
        settings_for("server", **asked)
    settings_for("server", target_qps=5e6)
    settings_for("server", min_queries=10_000_000)
