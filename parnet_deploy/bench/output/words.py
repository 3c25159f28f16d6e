"""Numbers and settings as people read them."""

from __future__ import annotations

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.measurements import ScenarioSettings
from parnet_deploy.artifacts.report import Interval, Metric, Ratio

MEBIBYTE = 2**20
KIBIBYTE = 2**10

METRIC_NAMES: dict[Metric, str] = {
    "min_latency": "fastest query",
    "p50_latency": "median latency",
    "p90_latency": "90th percentile of the latency",
    "throughput": "samples per second",
}


def milliseconds(value: float) -> str:
    """Write milliseconds with three figures after the point below 10, two below 100, one above."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def rate(value: float) -> str:
    """Write a number per second with three figures at least."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def figure(value: float, metric: Metric) -> str:
    """Write a metric's value with its unit."""
    return f"{rate(value)} samples/s" if metric == "throughput" else f"{milliseconds(value)} ms"


def factor(mean: float, interval: Interval | None) -> str:
    """Write a ratio and, if there is one, the 95% interval of its geometric mean."""
    return f"{mean:.2f}" if interval is None else f"{mean:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def speed_up(ratio: Ratio) -> str:
    """Write a ratio with its interval."""
    return factor(ratio.mean, ratio.interval)


def cuda_text(cuda: CudaOptions) -> str:
    """Write the settings of sessions on GPUs."""
    adapter = cuda.adapter or "pycuda if it is installed"
    return f"adapter: {adapter}; graphs: {cuda.graphs}; NVTX ranges: {'yes' if cuda.nvtx else 'no'}"


def plural(count: int, name: str) -> str:
    """Write a count with its noun."""
    return f"{count} {name}" if count == 1 else f"{count} {name}s"


def conditions(settings: ScenarioSettings, rounds: int) -> str:
    """State in a sentence what was asked of LoadGen."""
    parts = [
        f"{plural(rounds, 'round')} in turn, each alone in a process",
        f"at least {settings.min_query_count} {'samples' if settings.scenario == 'offline' else 'queries'}"
        f" and {settings.min_duration_ms / 1000:g} s a round",
    ]
    if settings.samples_per_query > 1:
        parts.append(f"{settings.samples_per_query} samples a query")
    if settings.target_qps is not None and settings.target_latency_ms is not None:
        parts.append(
            f"{rate(settings.target_qps)} queries a second on average,"
            f" {settings.target_percentile:.0%} within {milliseconds(settings.target_latency_ms)} ms"
        )
    if settings.concurrency > 1:
        parts.append(f"{settings.concurrency} inferences at once")
    return "; ".join(parts)
