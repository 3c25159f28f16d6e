"""`parnet-deploy plan`: predict which partition and placement is best, before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parnet_deploy.artifacts.limits import MAX_WIDTH
from parnet_deploy.cli.common import ForceOption, JsonOption, TraceOption, emit, format_bytes, spinner, write_trace
from parnet_deploy.cli.names import DEVICE_PROFILES, LINKS, complete
from parnet_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from rich.table import Table

    from parnet_deploy.artifacts.folders import OpenBundle
    from parnet_deploy.cli.stage_times import StageTimes
    from parnet_deploy.planning.links import Link
    from parnet_deploy.planning.search import Prediction, Workload


@dataclass(frozen=True)
class _Ranked:
    """A prediction and the bundle whose partition it places."""

    bundle: OpenBundle
    prediction: Prediction


def plan(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles of one network, cut differently.", show_default=False)],
    devices: Annotated[int, typer.Option(min=1, max=8, help="Equal GPUs that may be used.")] = 1,
    streams: Annotated[int, typer.Option(min=1, max=8, help="CUDA streams that may be used of each GPU.")] = 1,
    link: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="nvlink4, pcie4x16, pcie3x16, or what doctor --links -o wrote.",
            autocompletion=complete(LINKS),
        ),
    ] = "pcie4x16",
    staged: Annotated[
        bool, typer.Option("--staged", help="GPUs cannot reach each other: copy through the host's memory.")
    ] = False,
    times: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE|PLAN", help="Stage times: JSON {stage: ms}, or a plan to measure here. Repeatable."),
    ] = None,
    device_profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Estimate stage times instead: {', '.join(DEVICE_PROFILES)}.",
            autocompletion=complete(DEVICE_PROFILES),
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=MAX_WIDTH, help="How many placements to show.")] = 10,
    trace: TraceOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rank every placement of the bundles' stages onto GPUs by predicted latency; nothing is built or run on a GPU.

    Example: parnet-deploy plan bundle --devices 3 --link pcie4x16
    """
    from rich.console import Group
    from rich.text import Text

    from parnet_deploy.artifacts.files import refuse_file
    from parnet_deploy.artifacts.folders import open_bundle
    from parnet_deploy.cli.stage_times import times_from_paths, times_from_profile
    from parnet_deploy.planning.timeline import draw_timeline

    if trace is not None:
        refuse_file(trace, force=force)
    if times and device_profile is not None:
        raise ArtifactError("--times and --device-profile exclude each other", remedy="pass one of them")
    chosen_link = _find_link(link, staged=staged)
    opened = [open_bundle(folder) for folder in dict.fromkeys(bundles)]
    _check_comparable(opened)
    stage_times = times_from_paths(opened, times) if times else times_from_profile(opened, device_profile)
    workloads = [_workload(bundle, found) for bundle, found in zip(opened, stage_times, strict=True)]
    with spinner("searching placements"):
        ranking = _rank(opened, workloads, chosen_link, devices=devices, streams=streams, top=top)
    single = _best_on_one_lane(opened, workloads, chosen_link)
    best = ranking[0]
    speedup = single.prediction.latency_ms / best.prediction.latency_ms
    title = (
        f"{opened[0].manifest.name}, batch {workloads[0].batch}, at most {devices} GPUs with {streams} stream(s) each"
    )
    lines = [
        f"one GPU, one stream: {single.prediction.latency_ms:.3f} ms ({single.bundle.manifest.partition}); "
        f"the best placement is {speedup:.2f} times as fast",
        "",
        f"timeline of rank 1 ({best.bundle.manifest.partition}), predicted",
        draw_timeline(best.prediction.spans, 100),
        "",
        *_assumptions(opened, stage_times, chosen_link, streams),
    ]
    result = {
        "devices": devices,
        "streams": streams,
        "link": chosen_link.model_dump(mode="json"),
        "times": [
            {"bundle": str(bundle.folder), "source": found.source, "stage_ms": found.durations_ms}
            for bundle, found in zip(opened, stage_times, strict=True)
        ],
        "one_lane": _as_json(single),
        "ranking": [{"rank": rank, **_as_json(entry)} for rank, entry in enumerate(ranking, start=1)],
        "timeline": [
            {"lane": str(s.lane), "what": s.stage, "start_ms": s.start_ms, "end_ms": s.end_ms, "is_copy": s.is_copy}
            for s in best.prediction.spans
        ],
    }
    if trace is not None:
        write_trace(trace, [best.prediction.spans], f"{title}, predicted", force=force)
    emit(result, Group(title, _table(ranking), Text("\n".join(lines))), as_json=as_json)


def _find_link(name: str, *, staged: bool) -> Link:
    import json

    from pydantic import ValidationError

    from parnet_deploy.planning.links import LINKS, Link

    if name in LINKS:
        found = LINKS[name]
    elif not Path(name).is_file():
        raise ArtifactError(f"no link {name!r}", remedy=f"one of {', '.join(LINKS)}, or a JSON file")
    else:
        remedy = f"give: {', '.join(Link.model_fields)}"
        try:
            found = Link.model_validate(json.loads(Path(name).read_bytes()))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(f"{field}: {first['msg']}", where=name, remedy=remedy) from error
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"not valid JSON ({error})", where=name, remedy=remedy) from error
    return found.staged() if staged else found


def _check_comparable(opened: list[OpenBundle]) -> None:
    first = opened[0].manifest
    for bundle in opened[1:]:
        other = bundle.manifest
        same = all(
            getattr(other, name) == getattr(first, name) for name in ("network", "preprocessing", "batch", "precision")
        )
        if not same:
            raise ArtifactError(
                f"differs from {opened[0].folder} in network, input, batch or precision",
                where=bundle.folder,
                remedy="rank bundles that differ in their partition only",
            )


def _workload(bundle: OpenBundle, found: StageTimes) -> Workload:
    from parnet_deploy.planning.search import Workload

    graph = bundle.manifest
    sizes_bytes = {name: spec.size_bytes * graph.batch.opt for name, spec in graph.tensors.items()}
    return Workload(graph.stages, found.durations_ms, sizes_bytes, graph.batch.opt, graph.input, graph.output)


def _rank(
    opened: list[OpenBundle], workloads: list[Workload], link: Link, *, devices: int, streams: int, top: int
) -> list[_Ranked]:
    from parnet_deploy.planning.search import search

    entries = [
        _Ranked(bundle, prediction)
        for bundle, workload in zip(opened, workloads, strict=True)
        for prediction in search(workload, link, devices=devices, streams=streams, top=top)
    ]
    return sorted(entries, key=lambda entry: (entry.prediction.latency_ms, entry.prediction.bytes_across))[:top]


def _best_on_one_lane(opened: list[OpenBundle], workloads: list[Workload], link: Link) -> _Ranked:
    return _rank(opened, workloads, link, devices=1, streams=1, top=1)[0]


def _placed(prediction: Prediction) -> dict[str, list[str]]:
    return {str(lane): [stage for stage, at in prediction.placement.items() if at == lane] for lane in prediction.lanes}


def _as_json(entry: _Ranked) -> dict[str, Any]:
    prediction = entry.prediction
    return {
        "bundle": str(entry.bundle.folder),
        "partition": entry.bundle.manifest.partition,
        "placement": {stage: str(lane) for stage, lane in prediction.placement.items()},
        "latency_ms": prediction.latency_ms,
        "throughput_per_s": prediction.throughput_per_s,
        "bytes_across": prediction.bytes_across,
        "bytes_host": prediction.bytes_host,
    }


def _table(ranking: list[_Ranked]) -> Table:
    from rich.table import Table

    table = Table("rank", "partition", "placement", "latency ms", "images/s", "across GPUs", box=None)
    for rank, entry in enumerate(ranking, start=1):
        prediction = entry.prediction
        table.add_row(
            str(rank),
            entry.bundle.manifest.partition,
            " | ".join(f"{lane}: {' '.join(stages)}" for lane, stages in _placed(prediction).items()),
            f"{prediction.latency_ms:.3f}",
            f"{prediction.throughput_per_s:.0f}",
            format_bytes(prediction.bytes_across),
        )
    return table


def _assumptions(opened: list[OpenBundle], stage_times: list[StageTimes], link: Link, streams: int) -> list[str]:
    lines = []
    for source in dict.fromkeys(found.source for found in stage_times):
        of = ", ".join(
            b.manifest.partition for b, found in zip(opened, stage_times, strict=True) if found.source == source
        )
        lines.append(f"stage times ({of}): {source}")
    lines.append(f"link {link.name}: {link.description}")
    lines.append("not modelled: copies that share a link, the host's time to launch")
    if streams > 1:
        lines.append(
            "not modelled: streams of one GPU share its arithmetic and memory, so their latency is a lower bound"
        )
    lines.append("images/s: as many as the busiest lane lets through, with enough requests in flight")
    return lines
