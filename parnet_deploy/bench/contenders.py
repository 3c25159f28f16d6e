"""Describe what is measured, and join a plan's identity with its rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from parnet_deploy.artifacts.folders import OpenPlan
from parnet_deploy.artifacts.measurements import BenchRound, LatencyStatistics, SweepPoint
from parnet_deploy.artifacts.report import Contender, MeasuredPlan, Ratio
from parnet_deploy.bench.statistics import (
    METRIC_VALUES,
    latency_statistics,
    median_cold_start,
    median_stage_times,
    paired_ratio,
    round_values,
    typical_timeline,
)
from parnet_deploy.planning.schedule import bytes_moved


def labels_of(plans: Sequence[Path]) -> tuple[str, ...]:
    """Name plans by their folders, with as many parent folders as tell them apart, or a number where none does."""
    parts = [plan.absolute().parts for plan in plans]

    def label(index: int) -> str:
        others = [other for other in parts if other != parts[index]]
        for depth in range(1, len(parts[index]) + 1):
            tail = parts[index][-depth:]
            if all(other[-depth:] != tail for other in others):
                break
        same = [position for position, other in enumerate(parts) if other == parts[index]]
        number = f"#{same.index(index) + 1}" if len(same) > 1 else ""
        return str(Path(*tail)) + number

    return tuple(label(index) for index in range(len(plans)))


def measured_plan(label: str, plan: OpenPlan) -> MeasuredPlan:
    """Return what a plan is, under the name that the report gives it."""
    manifest = plan.manifest
    sizes_bytes = {name: tensor.size_bytes for name, tensor in manifest.tensors.items()}
    bytes_host, bytes_across = bytes_moved(manifest.schedule, sizes_bytes)
    return MeasuredPlan(
        label=label,
        plan_name=manifest.name,
        plan_sha256=plan.sha256,
        backend=manifest.backend,
        backend_version=manifest.backend_version,
        devices=manifest.devices,
        form=manifest.form,
        partition=manifest.partition,
        precision=manifest.precision,
        batch=manifest.batch,
        input_shape=manifest.tensors[manifest.input].shape,
        bytes_across=bytes_across,
        bytes_host=bytes_host,
    )


def contender_of(
    plan: MeasuredPlan,
    rounds: Sequence[BenchRound],
    *,
    harness: LatencyStatistics | None = None,
    sweep: Sequence[SweepPoint] = (),
) -> Contender:
    """Join what a plan is and what was measured of it."""
    return Contender(
        **plan.model_dump(),
        latency=latency_statistics([latency for entry in rounds for latency in entry.latencies_ns]),
        samples_per_second=median(entry.samples_per_second for entry in rounds),
        cold_start=median_cold_start([entry.cold_start for entry in rounds]),
        peak_memory_bytes=int(median(entry.peak_memory_bytes for entry in rounds)),
        harness=harness,
        stages=median_stage_times([entry.stages for entry in rounds]),
        timeline=typical_timeline([entry.timeline for entry in rounds]),
        rounds=tuple(rounds),
        sweep=tuple(sweep),
    )


def ratios_of(contenders: Sequence[Contender]) -> tuple[Ratio, ...]:
    """Compare every contender but the first with the first, by each metric, round by round."""
    reference = contenders[0]
    return tuple(
        paired_ratio(
            contender.label,
            reference.label,
            metric,
            round_values(contender.rounds, metric),
            round_values(reference.rounds, metric),
        )
        for contender in contenders[1:]
        for metric in METRIC_VALUES
    )
