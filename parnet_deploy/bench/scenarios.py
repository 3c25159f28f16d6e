"""The four scenarios of MLPerf Inference, as settings of LoadGen that a person can wait for."""

from __future__ import annotations

from typing import get_args

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.limits import MAX_MILLISECONDS, MAX_QUERIES
from parnet_deploy.artifacts.measurements import Scenario, ScenarioSettings
from parnet_deploy.errors import InferenceError

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
DEFAULT_DURATION_MS = 2000
# Five rounds of two seconds tell more than three of three: the interval of the ratios is half as wide.
DEFAULT_ROUNDS = 5

# Queries per round. LoadGen's early stopping calls a single-stream run valid from 64 queries on (90th percentile) and
# the others from several hundred (99th): --min-queries 662 is what a valid multi-stream run needs.
_MIN_QUERIES: dict[Scenario, int] = {"single-stream": 64, "multi-stream": 16, "server": 64, "offline": 64}

# MLPerf Inference rules, closed division: the percentile that each scenario is judged by, and the samples per query.
_TARGET_PERCENTILE: dict[Scenario, float] = {
    "single-stream": 0.9,
    "multi-stream": 0.99,
    "server": 0.99,
    "offline": 0.99,
}
_MULTI_STREAM_SAMPLES = 8

# Where the user names no rate: half of what the baseline answers one by one, within ten times its unloaded latency. At
# half load an engine of constant speed holds at most four queries 99% of the time (M/D/1), so ten leaves room.
_SERVER_LOAD = 0.5
_SERVER_LATENCY_FACTOR = 10.0
# Handing a query to another thread takes a tenth of a millisecond; a faster engine would measure only that.
_SERVER_LEAST_LATENCY_MS = 1.0


def settings_for(
    scenario: str,
    *,
    min_queries: int | None = None,
    duration_ms: int | None = None,
    samples_per_query: int | None = None,
    target_qps: float | None = None,
    target_latency_ms: float | None = None,
    concurrency: int = 1,
    warm_up_runs: int = 3,
    cuda: CudaOptions | None = None,
) -> ScenarioSettings:
    """Return a scenario's settings, with its defaults for what is None.

    Raises:
        InferenceError: an unknown scenario, a number that is not positive, a setting of another scenario, or a run that
            would not end.
    """
    known = next((name for name in SCENARIOS if name == scenario), None)
    if known is None:
        raise InferenceError(f"unknown scenario {scenario!r}", remedy=f"one of {', '.join(SCENARIOS)}")
    _check_settings(known, samples_per_query, target_qps, target_latency_ms)
    queries = _MIN_QUERIES[known] if min_queries is None else min_queries
    duration = DEFAULT_DURATION_MS if duration_ms is None else duration_ms
    if min(duration, concurrency, warm_up_runs) < 1 or queries < 2:
        raise InferenceError(
            "the duration, the concurrency and the warm-up runs must be at least 1, the queries at least 2",
            remedy="leave them out for the defaults",
        )
    asked = max(queries, (target_qps or 0.0) * duration / 1e3)
    if asked > MAX_QUERIES or duration > MAX_MILLISECONDS:
        raise InferenceError(
            f"a run of {asked:.3g} queries or {duration / 1e3:.3g} s is too long",
            remedy=f"ask for {MAX_QUERIES:,} queries and {MAX_MILLISECONDS // 1000:,} s at most",
        )
    return ScenarioSettings(
        scenario=known,
        min_duration_ms=duration,
        min_query_count=queries,
        samples_per_query=samples_per_query or (_MULTI_STREAM_SAMPLES if known == "multi-stream" else 1),
        target_percentile=_TARGET_PERCENTILE[known],
        target_qps=target_qps,
        target_latency_ms=target_latency_ms,
        concurrency=concurrency,
        warm_up_runs=warm_up_runs,
        cuda=cuda or CudaOptions(),
    )


def _check_settings(
    scenario: Scenario, samples_per_query: int | None, target_qps: float | None, target_latency_ms: float | None
) -> None:
    for name, value, owner in (
        ("samples per query", samples_per_query, "multi-stream"),
        ("target qps", target_qps, "server"),
        ("target latency", target_latency_ms, "server"),
    ):
        if value is None:
            continue
        if scenario != owner:
            raise InferenceError(f"the {name} can be set only in the {owner} scenario", remedy="leave it out")
        if not 0 < value < float("inf"):
            raise InferenceError(
                f"the {name} must be a positive number, not {value}", remedy="leave it out for the default"
            )


def with_server_targets(settings: ScenarioSettings, *, latency_ms: float) -> ScenarioSettings:
    """Fill in the server scenario's targets from an unloaded latency; other scenarios are returned as they are."""
    if settings.scenario != "server":
        return settings
    latency_ms = max(latency_ms, _SERVER_LEAST_LATENCY_MS)
    return settings.model_copy(
        update={
            "target_qps": settings.target_qps or _SERVER_LOAD * settings.concurrency * 1000.0 / latency_ms,
            "target_latency_ms": settings.target_latency_ms or _SERVER_LATENCY_FACTOR * latency_ms,
        }
    )
