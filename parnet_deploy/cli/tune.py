"""`parnet-deploy tune`: measure what can be chosen, and write the best plan."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parnet_deploy.artifacts.limits import MAX_MEBIBYTES, MAX_MILLISECONDS, MAX_SECONDS
from parnet_deploy.cli.common import ForceOption, JsonOption, describe, emit, finite, spinner
from parnet_deploy.errors import EngineError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from parnet_deploy.artifacts.tuning import Crossover, Tried, TuningReport


class ObjectiveName(StrEnum):
    """What is to be best."""

    latency = "latency"
    throughput = "throughput"


# Candidates of one status are told together, the choice first.
_ORDER = ("chosen", "measured", "not eligible", "dropped", "left out")


def tune(
    bundles: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE",
            help="Bundles of one network: cut differently, of several precisions or batches.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Plan folder to write.")],
    objective: Annotated[
        ObjectiveName, typer.Option(help="The time of a request, or images a second.")
    ] = ObjectiveName.latency,
    max_latency: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=MAX_MILLISECONDS,
            callback=finite,
            metavar="MS",
            help="Keep this; then the most accurate precision that does is chosen.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0, max=100, callback=finite, metavar="POINTS", help="Top-1 accuracy that may be lost; needs --data."
        ),
    ] = None,
    max_memory: Annotated[
        float | None,
        typer.Option(
            min=1,
            max=MAX_MEBIBYTES,
            callback=finite,
            metavar="MIB",
            help="Resident memory of a process that runs the plan; ncnn may then use it all.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="digits|FOLDER", help="Labelled images to compare precisions on.", show_default=False),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Try this backend; repeatable. Default: all that are installed.", show_default=False),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(min=1, max=MAX_SECONDS, callback=finite, metavar="SECONDS", help="About how long to measure."),
    ] = 180.0,
    no_crossover: Annotated[
        bool, typer.Option("--no-crossover", help="Do not look from how many cores on a split would win.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Results of earlier tunings; default: below ~/.cache.", show_default=False),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Measure everything, keep nothing.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure backends, partitions, threads and precisions on this machine, and write the plan that is best.

    Example: parnet-deploy tune bundle bundle_split -o plan

    Example: parnet-deploy tune bundle_fp32 bundle_int8 -o plan --data digits --max-drop 0.5
    """
    from rich.console import Group
    from rich.text import Text

    from parnet_deploy.artifacts.tuning import TuningLimits
    from parnet_deploy.tuning.cache import default_cache_dir
    from parnet_deploy.tuning.tune import TuneOptions
    from parnet_deploy.tuning.tune import tune as tune_bundles

    if max_drop is not None and data is None:
        raise EngineError("--max-drop needs labelled images", remedy="pass --data digits or an image folder")
    options = TuneOptions(
        limits=TuningLimits(
            objective=objective.value,
            budget_s=budget,
            max_latency_ms=max_latency,
            max_memory_mib=max_memory,
            max_drop=max_drop,
            data=data,
        ),
        backends=tuple(dict.fromkeys(backend)) if backend else None,
        cache_dir=None if no_cache else cache or default_cache_dir(),
        crossover=not no_crossover,
    )
    with spinner("reading the bundles") as progress:
        tuned = tune_bundles(
            bundles,
            output,
            options,
            force=force,
            on_progress=lambda what, left_s: describe(progress, f"{what} ({left_s:.0f} s left)" if left_s else what),
        )
    report = tuned.report
    lines = [*report.reasons]
    if tuned.is_cached:
        lines.append(f"measured {report.created}, from the cache; --no-cache measures again")
    if data is None and len({bundle.precision for bundle in report.bundles}) > 1:
        lines.append("precisions differ and accuracy was not measured: pass --data")
    lines.append(f"{output}: {report.chosen.label}")
    parts: list[RenderableType] = [tried_table(report), Text("\n".join(lines))]
    if report.crossover is not None:
        parts += [Text(""), crossover_table(report.crossover), Text(crossover_sentence(report.crossover))]
    emit({**report.model_dump(mode="json"), "cached": tuned.is_cached}, Group(*parts), as_json=as_json)


def tried_table(report: TuningReport) -> Table:
    """Tabulate what was tried: the choice, then the others, the fastest first."""
    from rich.table import Table
    from rich.text import Text

    table = Table("candidate", "ms", "of rounds", "images/s", "first answer ms", "peak MiB", "", box=None)
    has_accuracy = any(entry.top1 is not None for entry in report.tried)
    if has_accuracy:
        table.add_column("top-1")
    for entry in sorted(report.tried, key=lambda entry: (_ORDER.index(entry.status), entry.latency_ms or 0.0)):
        cells = [Text(cell) for cell in _cells(entry)]
        if has_accuracy:
            cells.append(Text("" if entry.top1 is None else f"{entry.top1:.2f}%"))
        table.add_row(*cells, style="bold" if entry.status == "chosen" else None)
    return table


def _cells(entry: Tried) -> tuple[str, ...]:
    remark = entry.status if not entry.note else f"{entry.status}: {entry.note}"
    if entry.latency_ms is None or entry.images_per_s is None:
        return entry.label, "", "", "", "", "", remark
    return (
        entry.label,
        f"{entry.latency_ms:.4g}",
        f"{min(entry.rounds_ms):.4g} to {max(entry.rounds_ms):.4g} ({len(entry.rounds_ms)})",
        f"{entry.images_per_s:.4g}",
        "" if entry.cold_start_ms is None else f"{entry.cold_start_ms:.0f}",
        "" if entry.peak_bytes is None else f"{entry.peak_bytes / 2**20:.0f}",
        remark,
    )


def crossover_table(crossover: Crossover) -> Table:
    """Tabulate the whole network against the split one by number of cores."""
    from rich.table import Table

    table = Table("cores", "whole ms", "split ms", "split is faster by", "", box=None)
    for point in crossover.points:
        table.add_row(
            str(point.cores),
            f"{point.whole_ms:.4g}",
            f"{point.split_ms:.4g}",
            f"{point.whole_ms / point.split_ms:.2f}",
            "measured" if point.is_measured else "PREDICTED",
        )
    return table


def crossover_sentence(crossover: Crossover) -> str:
    """Say from how many cores on the split wins, and on what that rests."""
    most = crossover.points[-1].cores
    found = next((point for point in crossover.points if point.cores == crossover.wins_from), None)
    if found is None:
        text = f"{crossover.split} by {crossover.backend} does not win on up to {most} cores"
    else:
        text = f"{crossover.split} by {crossover.backend} wins from {found.cores} cores on" + (
            "" if found.is_measured else ", as predicted"
        )
    return f"{text}. {crossover.basis}"
