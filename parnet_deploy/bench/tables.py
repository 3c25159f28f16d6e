"""The tables and sentences of a report, as text that each form of output lays out in its own way."""

from __future__ import annotations

from dataclasses import dataclass

from parnet_deploy.artifacts.report import Contender, Ratio, Report, ScenarioSettings
from parnet_deploy.bench.scenarios import headline_metric

_MEBIBYTE = 2**20


@dataclass(frozen=True)
class TextTable:
    """A titled table; the first column holds names, the others right-aligned figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def summary_table(report: Report) -> TextTable:
    """Tabulate the contenders: verdict, latency, throughput, speed-up, cold start and memory."""
    scenario = report.settings.scenario
    compared = "samples/s" if scenario == "offline" else "p50"
    columns = ("plan", "LoadGen", "mean ms", "p50 ms", "p90 ms", "p99 ms", "samples/s", f"speed-up ({compared})")
    rows = tuple(_summary_row(report, contender) for contender in report.contenders)
    return TextTable(f"serve-bench, {scenario}", (*columns, "cold start ms", "peak MiB"), rows)


def _summary_row(report: Report, contender: Contender) -> tuple[str, ...]:
    ratio = report.ratio_of(contender.label, headline_metric(report.settings.scenario))
    latency = contender.latency
    return (
        contender.label,
        "VALID" if contender.is_valid else "INVALID",
        *(_milliseconds(value) for value in (latency.mean_ms, latency.p50_ms, latency.p90_ms, latency.p99_ms)),
        _rate(contender.samples_per_second),
        "baseline" if ratio is None else _spread(ratio),
        f"{contender.cold_start_ms:.0f}",
        f"{contender.peak_memory_bytes / _MEBIBYTE:.0f}",
    )


def contender_table(report: Report) -> TextTable:
    """Tabulate what each contender is."""
    rows = tuple(
        (
            entry.label,
            entry.form,
            entry.partition,
            entry.precision,
            f"{entry.backend} {entry.backend_version}",
            ", ".join(device.name for device in entry.devices),
            "x".join(str(extent) for extent in entry.input_shape),
            str(entry.batch.min) if not entry.batch.is_dynamic else f"{entry.batch.min} to {entry.batch.max}",
            f"{entry.bytes_across / 1024:.1f}",
        )
        for entry in report.contenders
    )
    columns = ("plan", "form", "partition", "precision", "backend", "devices", "input", "batch", "KiB across")
    return TextTable("Contenders", columns, rows)


def stage_table(report: Report) -> TextTable:
    """Tabulate when each stage starts and how long it runs, medians over profiled inferences."""
    rows = tuple(
        (contender.label, stage.stage, _milliseconds(stage.start_ms), _milliseconds(stage.duration_ms))
        for contender in report.contenders
        for stage in contender.stages
    )
    return TextTable("Stages, unloaded", ("plan", "stage", "start ms", "duration ms"), rows)


def machine_table(report: Report) -> TextTable:
    """Tabulate the machine and the versions."""
    machine = report.machine
    rows = (
        ("processor", machine.cpu),
        ("cores", f"{machine.usable_cores} usable of {machine.logical_cores}"),
        ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("system", machine.system),
        ("Python", machine.python),
        *machine.packages.items(),
    )
    return TextTable("Machine", ("part", "description"), rows)


def findings(report: Report) -> tuple[str, ...]:
    """State in a sentence what each comparison allows to say, then why runs were invalid."""
    metric = headline_metric(report.settings.scenario)
    compared = [ratio for ratio in report.ratios if ratio.metric == metric]
    return (
        *(_finding(ratio) for ratio in compared),
        *(_invalidity(contender) for contender in report.contenders if not contender.is_valid),
    )


def _invalidity(contender: Contender) -> str:
    invalid = [entry for entry in contender.rounds if entry.verdict == "INVALID"]
    counted = f"{len(invalid)} of {len(contender.rounds)} rounds of {contender.label}"
    return f"LoadGen calls {counted} invalid: {'; '.join(invalid[0].reasons)}"


def _finding(ratio: Ratio) -> str:
    what = "samples per second" if ratio.metric == "throughput" else "median latency"
    if ratio.finding == "within the noise":
        return (
            f"the difference between {ratio.contender} and {ratio.baseline} is within the noise:"
            f" speed-up {_spread(ratio)} by {what}"
        )
    if ratio.finding == "one round":
        return (
            f"{ratio.contender} against {ratio.baseline}: speed-up {ratio.median:.2f} by {what}, of one round,"
            " so nothing tells how much of it is noise"
        )
    return f"{ratio.contender} is {ratio.finding} than {ratio.baseline}: speed-up {_spread(ratio)} by {what}"


def conditions(settings: ScenarioSettings, rounds: int) -> str:
    """State in a sentence what was asked of LoadGen."""
    parts = [
        f"{rounds} round{'s' if rounds > 1 else ''} in turn, each alone in a process",
        f"at least {settings.min_query_count} {'samples' if settings.scenario == 'offline' else 'queries'}"
        f" and {settings.min_duration_ms / 1000:g} s a round",
    ]
    if settings.samples_per_query > 1:
        parts.append(f"{settings.samples_per_query} samples a query")
    if settings.target_qps is not None and settings.target_latency_ms is not None:
        parts.append(
            f"{_rate(settings.target_qps)} queries a second on average,"
            f" {settings.target_percentile:.0%} within {_milliseconds(settings.target_latency_ms)} ms"
        )
    if settings.concurrency > 1:
        parts.append(f"{settings.concurrency} inferences at once")
    return "; ".join(parts)


def _spread(ratio: Ratio) -> str:
    """Write a ratio's median and the range of its rounds."""
    return f"{ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f})"


def _rate(value: float) -> str:
    """Write a number per second with three figures at least."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def _milliseconds(value: float) -> str:
    """Write milliseconds with three figures after the point below 10, two below 100, one above."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"
