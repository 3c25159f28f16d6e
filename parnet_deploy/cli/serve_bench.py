"""`parnet-deploy serve-bench`: measure plans with MLPerf LoadGen and compare them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parnet_deploy.artifacts.limits import MAX_FACTOR, MAX_MILLISECONDS, MAX_QUERIES, MAX_SECONDS
from parnet_deploy.cli.common import (
    AdapterOption,
    ForceOption,
    GraphModeName,
    GraphsOption,
    JsonOption,
    NvtxOption,
    cuda_options,
    emit,
    finite,
    progress_bar,
    stderr,
)
from parnet_deploy.errors import CheckFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from parnet_deploy.artifacts.report import Report
    from parnet_deploy.bench.serve_bench import Progress

_BASELINE = "Baseline"
_SWEEP = "Sweep"


class ScenarioName(StrEnum):
    """LoadGen's scenarios."""

    single_stream = "single-stream"
    multi_stream = "multi-stream"
    server = "server"
    offline = "offline"


class MetricName(StrEnum):
    """Figures of a round."""

    min_latency = "min_latency"
    p50_latency = "p50_latency"
    p90_latency = "p90_latency"
    throughput = "throughput"


class ComparedByName(StrEnum):
    """What is compared with an earlier report."""

    absolute = "absolute"
    relative = "relative"


def serve_bench(
    plans: Annotated[
        list[Path],
        typer.Argument(
            metavar="PLAN", help="Plan folders; the first is the reference of the speed-ups.", show_default=False
        ),
    ],
    scenario: Annotated[ScenarioName, typer.Option(help="How queries are sent.")] = ScenarioName.single_stream,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each plan; the plans take turns.")] = 5,
    min_queries: Annotated[
        int | None,
        typer.Option(
            min=2, max=MAX_QUERIES, help="Least queries (offline: samples) of a run; default: 64, multi-stream 16."
        ),
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.001, max=MAX_SECONDS, callback=finite, help="Least duration of a run in seconds.")
    ] = 2.0,
    pipelines: Annotated[
        int,
        typer.Option("--pipelines", "--concurrency", min=1, max=1024, help="Inferences that a plan may run at once."),
    ] = 1,
    samples_per_query: Annotated[
        int | None, typer.Option(min=1, max=MAX_QUERIES, help="multi-stream: default 8.")
    ] = None,
    target_qps: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MAX_QUERIES,
            callback=finite,
            help="server: queries per second; default: half of what the first plan can do.",
        ),
    ] = None,
    target_latency: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MAX_MILLISECONDS,
            callback=finite,
            help="server: latency bound in ms; default: ten times the first plan's latency.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Report folder to write: HTML page, Markdown, JSON, CSV and pictures."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="1,2,4", help="Clients at once to try; every point is a run of its own.", rich_help_panel=_SWEEP
        ),
    ] = None,
    sweep_batches: Annotated[
        str | None,
        typer.Option(metavar="1,8", help="Default: doublings within each plan's range.", rich_help_panel=_SWEEP),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="REPORT", help="Exit 1 where a plan is slower than in this report.", rich_help_panel=_BASELINE
        ),
    ] = None,
    compare: Annotated[
        ComparedByName,
        typer.Option(
            help="absolute: each plan's own figure; relative: its speed-up over the first plan.",
            rich_help_panel=_BASELINE,
        ),
    ] = ComparedByName.absolute,
    metric: Annotated[
        MetricName | None,
        typer.Option(
            help="Default: min_latency, the steadiest; server: p50_latency; offline: throughput.",
            rich_help_panel=_BASELINE,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=MAX_FACTOR,
            callback=finite,
            help="Slower by less than this share is accepted.",
            rich_help_panel=_BASELINE,
        ),
    ] = 0.05,
    cuda_adapter: AdapterOption = None,
    cuda_graphs: GraphsOption = GraphModeName.auto,
    nvtx: NvtxOption = False,
    force: ForceOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the findings alone: no progress, no tables.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure plans with MLPerf LoadGen, each run alone in its process, in turn, and compare them.

    Example: parnet-deploy serve-bench plain_plan fused_plan split_plan --rounds 5 -o report
    """
    from parnet_deploy.bench.baseline import open_baseline
    from parnet_deploy.bench.output.terminal import rich_answer, rich_report
    from parnet_deploy.bench.scenarios import settings_for
    from parnet_deploy.bench.serve_bench import serve_bench as measure_plans
    from parnet_deploy.bench.sweep import sweep_options

    settings = settings_for(
        scenario.value,
        min_queries=min_queries,
        duration_ms=max(1, round(duration * 1000)),
        samples_per_query=samples_per_query,
        target_qps=target_qps,
        target_latency_ms=target_latency,
        concurrency=pipelines,
        cuda=cuda_options(cuda_adapter, cuda_graphs, nvtx=nvtx),
    )
    earlier = None
    if baseline is not None:
        earlier = open_baseline(
            baseline, metric=metric.value if metric else None, by=compare.value, tolerance=tolerance
        )
    with _progress(quiet=quiet) as on_progress:
        report = measure_plans(
            plans,
            settings,
            rounds=rounds,
            sweep=sweep_options(sweep, sweep_batches),
            baseline=earlier,
            output=output,
            force=force,
            on_progress=on_progress,
        )
    emit(report.model_dump(mode="json"), rich_answer(report) if quiet else rich_report(report), as_json=as_json)
    if output is not None and not quiet:
        stderr().print(f"report: {output / 'report.html'}", soft_wrap=True)
    _fail_for_regressions(report, baseline)


def _fail_for_regressions(report: Report, baseline: Path | None) -> None:
    """Raise `CheckFailedError` if a plan is slower than in the earlier report."""
    regressions = () if report.comparison is None else report.comparison.regressions
    if regressions:
        slower = ", ".join(f"{change.contender} {change.slowdown:.2f} times" for change in regressions)
        raise CheckFailedError(f"slower than the baseline, beyond the spread: {slower}", where=baseline)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar unless `quiet`, and yield the function that moves it on."""
    if quiet:
        yield lambda _: None
        return
    with progress_bar("measuring", 0) as bar:

        def on_progress(progress: Progress) -> None:
            bar.update(bar.task_ids[0], total=progress.total, completed=progress.done, description=progress.description)

        yield on_progress
