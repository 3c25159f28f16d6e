"""Run one scenario of MLPerf LoadGen over a function; the only file that imports mlperf_loadgen.

LoadGen calls back from its own loop, outside of Python: an exception must not travel through it (the process would be
terminated), so a failure is kept, every open query is answered, and the failure is raised when LoadGen has returned.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from parnet_deploy.artifacts.measurements import Scenario, ScenarioSettings
from parnet_deploy.bench.infer import Images, Infer, raise_failure
from parnet_deploy.bench.loadgen_log import Measurement, read_measurement
from parnet_deploy.errors import MissingDependencyError

_SCENARIO_NAMES: dict[Scenario, str] = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
# LoadGen makes its queries before the run and ends early, as invalid, when it has used them up: make twice what the
# expected latency asks for. The bound keeps memory and logs small where an engine answers in microseconds.
_QUERY_MARGIN = 2.0
_MAX_QUERIES = 100_000


def import_loadgen() -> ModuleType:
    """Import LoadGen; raise `MissingDependencyError` if it is not installed."""
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingDependencyError(
            f"MLPerf LoadGen cannot be imported ({error})", remedy='pip install "parnet-deploy[bench]"'
        ) from error
    module: ModuleType = mlperf_loadgen
    return module


def run_scenario(
    infer: Infer,
    images: Images,
    settings: ScenarioSettings,
    *,
    batch_size: int,
    expected_latency_ms: float,
) -> Measurement:
    """Let LoadGen send queries over `images` (float32 [N,3,H,W], the sample library) to `infer`, and read its logs.

    `infer` is called with at most `batch_size` images, by `settings.concurrency` threads at once. `expected_latency_ms`
    is the unloaded latency of one query, for offline of one sample; it decides how many queries LoadGen prepares.

    Raises:
        InferenceError: `infer` failed, or LoadGen's logs contradict each other.
        MissingDependencyError: LoadGen is not installed.
    """
    loadgen = import_loadgen()
    responder = _Responder(loadgen, infer, images)
    with tempfile.TemporaryDirectory(prefix="parnet-loadgen-") as name:
        with ThreadPoolExecutor(settings.concurrency, thread_name_prefix="query") as pool:
            # A server's queries arrive whether or not the last one was answered, so there the callback never waits.
            is_inline = settings.concurrency == 1 and settings.scenario != "server"
            submit = responder.answer if is_inline else _submit_to(pool, responder)
            _start_test(
                loadgen,
                lambda samples: _issue(samples, submit, batch_size),
                len(images),
                _test_settings(loadgen, settings, expected_latency_ms),
                _log_settings(loadgen, name),
            )
        responder.raise_failure()
        return read_measurement(Path(name), settings.scenario)


class _Responder:
    """Answer LoadGen's samples in batches; keep the first failure."""

    def __init__(self, loadgen: ModuleType, infer: Infer, images: Images) -> None:
        self._loadgen = loadgen
        self._infer = infer
        self._images = images
        self._failure: Exception | None = None
        self._completing = threading.Lock()

    def answer(self, samples: Sequence[tuple[int, int]]) -> None:
        """Infer one batch of samples (id, index) and tell LoadGen that they are complete."""
        try:
            if self._failure is None:
                self._infer(self._gather([index for _, index in samples]))
        except Exception as error:
            self._failure = error
        responses = [self._loadgen.QuerySampleResponse(id_, 0, 0) for id_, _ in samples]
        # LoadGen reads the clock, then counts down what is left of the query, and dates the query by whoever counts to
        # zero: two calls at once may pass each other in between, and the query ends before its last sample.
        with self._completing:
            self._loadgen.QuerySamplesComplete(responses)

    def _gather(self, indices: list[int]) -> Images:
        """Return the images of `indices`; a single one is not copied."""
        return self._images[indices[0] : indices[0] + 1] if len(indices) == 1 else self._images[indices]

    def raise_failure(self) -> None:
        """Raise the first failure, if there was one."""
        if self._failure is not None:
            raise_failure(self._failure)


def _submit_to(pool: ThreadPoolExecutor, responder: _Responder) -> Callable[[Sequence[tuple[int, int]]], object]:
    return lambda samples: pool.submit(responder.answer, samples)


def _issue(samples: Sequence[Any], submit: Callable[[Sequence[tuple[int, int]]], object], batch_size: int) -> None:
    """Split a query into batches; LoadGen's samples live only during the call."""
    pairs = [(sample.id, sample.index) for sample in samples]
    for start in range(0, len(pairs), batch_size):
        submit(pairs[start : start + batch_size])


def _start_test(
    loadgen: ModuleType, issue: Callable[[Sequence[Any]], None], num_samples: int, settings: Any, logs: Any
) -> None:
    sut = loadgen.ConstructSUT(issue, lambda: None)
    library = loadgen.ConstructQSL(num_samples, num_samples, lambda _: None, lambda _: None)
    try:
        # The empty name keeps LoadGen from reading an audit.config of the current folder.
        loadgen.StartTestWithLogSettings(sut, library, settings, logs, "")
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)


def _test_settings(loadgen: ModuleType, settings: ScenarioSettings, expected_latency_ms: float) -> Any:
    """Translate a scenario's settings into LoadGen's; a rate that the scenario lacks is never read."""
    expected_ns = max(1, int(expected_latency_ms * 1e6 / _QUERY_MARGIN))
    result = loadgen.TestSettings()
    result.scenario = getattr(loadgen.TestScenario, _SCENARIO_NAMES[settings.scenario])
    result.mode = loadgen.TestMode.PerformanceOnly
    result.min_duration_ms = settings.min_duration_ms
    result.min_query_count = settings.min_query_count
    result.max_query_count = max(settings.min_query_count, _MAX_QUERIES)
    result.single_stream_expected_latency_ns = expected_ns
    result.single_stream_target_latency_percentile = settings.target_percentile
    result.multi_stream_expected_latency_ns = expected_ns
    result.multi_stream_target_latency_percentile = settings.target_percentile
    result.multi_stream_samples_per_query = settings.samples_per_query
    result.offline_expected_qps = settings.concurrency * 1000.0 / expected_latency_ms
    result.server_target_latency_percentile = settings.target_percentile
    if settings.target_qps is not None and settings.target_latency_ms is not None:
        result.server_target_qps = settings.target_qps
        result.server_target_latency_ns = int(settings.target_latency_ms * 1e6)
    result.qsl_rng_seed = result.sample_index_rng_seed = result.schedule_rng_seed = settings.seed
    return result


def _log_settings(loadgen: ModuleType, folder: str) -> Any:
    """Send LoadGen's logs to a folder; the trace holds the latency of every sample."""
    output = loadgen.LogOutputSettings()
    output.outdir = folder
    output.copy_summary_to_stdout = False
    result = loadgen.LogSettings()
    result.log_output = output
    result.enable_trace = True
    return result
