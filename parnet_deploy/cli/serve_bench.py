"""`parnet-deploy serve-bench`: measure plans with MLPerf LoadGen and compare them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parnet_deploy.cli.common import (
    AdapterOption,
    ForceOption,
    GraphModeName,
    GraphsOption,
    JsonOption,
    NvtxOption,
    cuda_options,
    emit,
    progress_bar,
    stderr,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from parnet_deploy.bench.serve_bench import Progress


class ScenarioName(StrEnum):
    """LoadGen's scenarios."""

    single_stream = "single-stream"
    multi_stream = "multi-stream"
    server = "server"
    offline = "offline"


def serve_bench(
    plans: Annotated[
        list[Path],
        typer.Argument(
            metavar="PLAN", help="Plan folders; the first is the baseline of the ratios.", show_default=False
        ),
    ],
    scenario: Annotated[ScenarioName, typer.Option(help="How queries are sent.")] = ScenarioName.single_stream,
    rounds: Annotated[int, typer.Option(min=1, help="Runs of each plan; the plans take turns.")] = 3,
    min_queries: Annotated[
        int | None,
        typer.Option(min=2, help="Least queries (offline: samples) of a run; default: 64, multi-stream 16."),
    ] = None,
    duration: Annotated[float, typer.Option(min=0.001, help="Least duration of a run in seconds.")] = 3.0,
    pipelines: Annotated[
        int,
        typer.Option("--pipelines", "--concurrency", min=1, help="Inferences that a plan may run at once."),
    ] = 1,
    samples_per_query: Annotated[int | None, typer.Option(min=1, help="multi-stream: default 8.")] = None,
    target_qps: Annotated[
        float | None, typer.Option(help="server: queries per second; default: half of what the first plan can do.")
    ] = None,
    target_latency: Annotated[
        float | None, typer.Option(help="server: latency bound in ms; default: ten times the first plan's latency.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Report folder to write: JSON, Markdown, plot, HTML page.")
    ] = None,
    cuda_adapter: AdapterOption = None,
    cuda_graphs: GraphsOption = GraphModeName.auto,
    nvtx: NvtxOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure plans with MLPerf LoadGen, each run alone in its process, in turn, and compare them.

    Example: parnet-deploy serve-bench plain_plan fused_plan split_plan --rounds 5 -o report
    """
    from parnet_deploy.bench.render import rich_report
    from parnet_deploy.bench.scenarios import settings_for
    from parnet_deploy.bench.serve_bench import serve_bench as measure_plans

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
    with _progress_over(rounds * len(plans)) as on_progress:
        report = measure_plans(plans, settings, rounds=rounds, output=output, force=force, on_progress=on_progress)
    emit(report.model_dump(mode="json"), rich_report(report), as_json=as_json)
    if output is not None:
        stderr().print(f"report: {output / 'report.html'}", soft_wrap=True)


@contextmanager
def _progress_over(total: int) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar and yield the function that moves it on."""
    with progress_bar("measuring", total) as bar:

        def on_progress(progress: Progress) -> None:
            description = f"{progress.label}, round {progress.round_number}"
            bar.update(bar.task_ids[0], completed=progress.done, description=description)

        yield on_progress
