"""The tables of a report, as text."""

from __future__ import annotations

from collections.abc import Iterable

from parnet_deploy.artifacts.report import Comparison, Contender, Report
from parnet_deploy.bench.output.paper import PAPER_HARDWARE, PAPER_ROWS, beside_the_paper
from parnet_deploy.bench.output.words import (
    KIBIBYTE,
    MEBIBYTE,
    cuda_text,
    factor,
    figure,
    milliseconds,
    rate,
    speed_up,
)
from parnet_deploy.bench.statistics import headline_metric
from parnet_deploy.reporting.colours import colour_of
from parnet_deploy.reporting.document import Table


def _colours(report: Report, labels: Iterable[str]) -> tuple[str, ...]:
    """Return the colours of rows that begin with these labels."""
    order = [entry.label for entry in report.contenders]
    return tuple(colour_of(order.index(label)) for label in labels)


def _table(
    report: Report,
    title: str,
    columns: tuple[str, ...],
    rows: Iterable[tuple[str, ...]],
    *,
    names: tuple[int, ...] = (0,),
) -> Table:
    """Make a table whose rows begin with a contender's label."""
    rows = tuple(rows)
    return Table(title, columns, rows, names, colours=_colours(report, (row[0] for row in rows)))


def summary_table(report: Report) -> Table:
    """Tabulate the contenders: verdict, latency, throughput and speed-up."""
    scenario = report.settings.scenario
    compared = "samples/s" if scenario == "offline" else "p50"
    columns = ("plan", "LoadGen", "p50 ms", "p90 ms", "p99 ms", "samples/s", f"speed-up by {compared} (95%)")
    rows = (_summary(report, entry) for entry in report.contenders)
    return _table(report, f"serve-bench, {scenario}", columns, rows, names=(0, 1))


def _summary(report: Report, contender: Contender) -> tuple[str, ...]:
    ratio = report.ratio_of(contender.label, headline_metric(report.settings.scenario))
    latency = contender.latency
    return (
        contender.label,
        "VALID" if contender.is_valid else "INVALID",
        *(milliseconds(value) for value in (latency.p50_ms, latency.p90_ms, latency.p99_ms)),
        rate(contender.samples_per_second),
        "reference" if ratio is None else speed_up(ratio),
    )


def start_table(report: Report) -> Table:
    """Tabulate the cold start and its parts, the memory, and the harness's overhead."""
    columns = ("plan", "cold start ms", "process ms", "plan open ms", "first answer ms", "peak MiB", "harness us")
    rows = (
        (
            entry.label,
            f"{entry.cold_start.total_ms:.0f}",
            f"{entry.cold_start.process_ms:.0f}",
            f"{entry.cold_start.open_ms:.0f}",
            milliseconds(entry.cold_start.first_answer_ms),
            f"{entry.peak_memory_bytes / MEBIBYTE:.0f}",
            "not measured" if entry.harness is None else f"{entry.harness.p50_ms * 1e3:.1f}",
        )
        for entry in report.contenders
    )
    return _table(report, "Cold start, memory, harness", columns, rows)


def stage_table(report: Report) -> Table:
    """Tabulate when each stage and copy starts, how long it runs, and how long it waited before."""
    columns = ("plan", "stage", "lane", "start ms", "duration ms", "waited ms", "lane busy ms")
    rows = (
        (
            contender.label,
            stage.stage,
            str(stage.lane),
            *(milliseconds(value) for value in (stage.start_ms, stage.duration_ms, stage.wait_ms, stage.lane_busy_ms)),
        )
        for contender in report.contenders
        for stage in contender.stages
    )
    return _table(report, "Stages, unloaded", columns, rows, names=(0, 1, 2))


def sweep_table(report: Report) -> Table:
    """Tabulate the points of the sweep."""
    columns = ("plan", "at once", "batch", "p50 ms", "p99 ms", "samples/s", "peak MiB")
    rows = (
        (
            contender.label,
            str(point.concurrency),
            str(point.batch),
            milliseconds(point.latency.p50_ms),
            milliseconds(point.latency.p99_ms),
            rate(point.samples_per_second),
            f"{point.peak_memory_bytes / MEBIBYTE:.0f}",
        )
        for contender in report.contenders
        for point in contender.sweep
    )
    return _table(report, "Sweep", columns, rows)


def comparison_table(report: Report, comparison: Comparison) -> Table:
    """Tabulate every contender against the earlier report."""

    def value(number: float) -> str:
        return f"{number:.2f}" if comparison.by == "relative" else figure(number, comparison.metric)

    rows = (
        (
            change.contender,
            value(change.before),
            value(change.after),
            factor(change.slowdown, change.interval),
            change.finding,
        )
        for change in comparison.changes
    )
    columns = ("plan", "baseline", "now", "slowdown (95%)", "finding")
    return _table(report, "Against the baseline", columns, rows)


def paper_table(report: Report) -> Table:
    """Tabulate table 3 of the paper beside the contenders of the same kind; without rows if there are none."""
    found = beside_the_paper(report)
    rows: list[tuple[str, ...]] = []
    for row in PAPER_ROWS if found else ():
        paper = (row.name, f"{row.latency_ms:.2f}", f"{row.speed_up:.2f}")
        here = [entry for entry in found if entry.row is row]
        rows += [
            (
                *paper,
                entry.contender.label,
                milliseconds(entry.contender.latency.p50_ms),
                factor(entry.mean, entry.interval),
            )
            for entry in here
        ] or [(*paper, "not measured", "", "")]
    paper_columns = ("form", f"paper ms ({PAPER_HARDWARE})", "paper speed-up")
    columns = (*paper_columns, "plan here", "p50 ms here", "speed-up here (95%)")
    return Table("Table 3 of the paper: other hardware", columns, tuple(rows), names=(0, 3))


def contender_table(report: Report) -> Table:
    """Tabulate what each contender is, a column for each."""

    def described(entry: Contender) -> dict[str, str]:
        batch = entry.batch
        return {
            "network": f"{entry.plan_name}, {entry.form} form",
            "partition": entry.partition,
            "precision": entry.precision,
            "backend": f"{entry.backend} {entry.backend_version}",
            "devices": ", ".join(f"{device.device} {device.name}" for device in entry.devices),
            "input": "x".join(str(extent) for extent in entry.input_shape),
            "batch": f"{batch.min} to {batch.max}, best at {batch.opt}" if batch.is_dynamic else str(batch.min),
            "KiB from device to device": f"{entry.bytes_across / KIBIBYTE:.1f}",
            "KiB from and to the host": f"{entry.bytes_host / KIBIBYTE:.1f}",
            "sha256 of plan.json": f"{entry.plan_sha256[:12]}...",
        }

    columns = [described(entry) for entry in report.contenders]
    rows = tuple((name, *(column[name] for column in columns)) for name in columns[0])
    return Table("Plans", ("", *(entry.label for entry in report.contenders)), rows, is_text=True)


def settings_table(report: Report) -> Table:
    """Tabulate what was asked for."""
    settings = report.settings
    has_gpus = any(entry.is_on_gpu for entry in report.contenders)
    rows = [
        ("scenario", settings.scenario),
        ("rounds of each plan", str(len(report.reference.rounds))),
        ("least of a round", f"{settings.min_query_count} queries, {settings.min_duration_ms / 1000:g} s"),
        ("judged by LoadGen at", f"{settings.target_percentile:.0%} of the latencies"),
        ("pipelines", f"{settings.concurrency} (inferences at once)"),
        ("samples per query", str(settings.samples_per_query)),
        ("warm-up", f"{settings.warm_up_runs} inferences of each pipeline"),
        ("profiled for the stages", f"{settings.profile_runs} inferences a round, one at a time"),
        ("CUDA", cuda_text(settings.cuda) if has_gpus else "no plan on GPUs"),
    ]
    if settings.target_qps is not None and settings.target_latency_ms is not None:
        rows += [
            ("queries a second", rate(settings.target_qps)),
            ("latency bound", f"{milliseconds(settings.target_latency_ms)} ms"),
        ]
    return Table("Settings", ("setting", "value"), tuple(rows), is_text=True)


def machine_table(report: Report) -> Table:
    """Tabulate the machine and the versions."""
    machine = report.machine
    load = "unknown" if machine.load_before is None else f"{machine.load_before:.2f}"
    rows = (
        ("processor", machine.processor),
        ("cores", f"{machine.usable_cores} usable of {machine.logical_cores}"),
        ("memory", f"{machine.memory_bytes / 2**30:.1f} GiB"),
        ("load before the first run", load),
        ("system", machine.system),
        ("Python", machine.python),
        *machine.packages.items(),
    )
    return Table("Machine", ("part", "description"), rows, is_text=True)
