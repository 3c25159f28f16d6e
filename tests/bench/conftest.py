"""Plans to measure without a network behind them (null backend), and a report with known numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.report import BenchRound, ColdStart, Contender, Machine, Report, StageTiming
from parnet_deploy.artifacts.schemas import (
    BatchRange,
    Bundle,
    BundleStage,
    DeviceRecord,
    FileRecord,
    Lane,
    NetworkConfig,
    Parent,
    Preprocessing,
    TensorSpec,
)
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.serve_bench import ratios_of
from parnet_deploy.bench.statistics import latency_statistics
from parnet_deploy.engines import build_plan
from parnet_deploy.planning.partition import partition

NETWORK = NetworkConfig(stem=(4, 8), planes=(8, 16), num_blocks=(1, 1), last_planes=16, num_classes=10)
SIZE = 16


def make_bundle(folder: Path, partition_name: str, batch: BatchRange) -> Path:
    """Write a bundle whose manifest is sound and whose graphs are empty files."""
    stages = partition(NETWORK, partition_name)
    folder.mkdir(parents=True)
    for stage in stages:
        (folder / f"{stage.name}.onnx").write_bytes(stage.name.encode())
    tensors = {name: TensorSpec(dtype="float32", shape=(8, 4, 4)) for stage in stages for name in stage.outputs}
    tensors |= {
        "image": TensorSpec(dtype="float32", shape=(3, SIZE, SIZE)),
        "logits": TensorSpec(dtype="float32", shape=(NETWORK.num_classes,)),
    }
    bundle = Bundle(
        name="parnet_tiny",
        parent=Parent(kind="checkpoint", name="tiny.safetensors", sha256="0" * 64),
        form="fused",
        network=NETWORK,
        precision="fp32",
        partition=partition_name,
        batch=batch,
        preprocessing=Preprocessing(input_size=(3, SIZE, SIZE)),
        tensors=tensors,
        stages=tuple(
            BundleStage(**stage.model_dump(), file=FileRecord.of(folder / f"{stage.name}.onnx")) for stage in stages
        ),
    )
    write_manifest(folder / "bundle.json", bundle)
    return folder


@pytest.fixture
def null_plan(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that builds a plan of the null backend: (name, partition name, batch range) to its folder."""

    def build(name: str, partition_name: str = "whole", batch: BatchRange | None = None) -> Path:
        bundle = make_bundle(tmp_path / "bundles" / name, partition_name, batch or BatchRange())
        return build_plan(bundle, tmp_path / name, backend="null")

    return build


ROUND_LATENCIES_NS = {
    "base": ((10_000_000, 12_000_000, 11_000_000), (10_000_000, 14_000_000, 12_000_000)),
    "<fast> & $new$": ((5_000_000, 6_000_000, 5_500_000), (4_000_000, 6_000_000, 5_000_000)),
}


def make_round(latencies_ns: tuple[int, ...]) -> BenchRound:
    """Return a single-stream round with these latencies; its other figures are constants."""
    lane = Lane(device="cpu")
    return BenchRound(
        verdict="INVALID",
        reasons=("early stopping: too few queries",),
        query_count=len(latencies_ns),
        sample_count=len(latencies_ns),
        latencies_ns=latencies_ns,
        latency=latency_statistics(latencies_ns),
        samples_per_second=len(latencies_ns) * 1e9 / sum(latencies_ns),
        cold_start=ColdStart(process_ms=100.0, open_ms=20.0, first_answer_ms=3.0),
        peak_memory_bytes=50 * 2**20,
        stages=(
            StageTiming(stage="stream1", lane=lane, start_ms=0.5, duration_ms=4.0),
            StageTiming(stage="join", lane=lane, start_ms=4.5, duration_ms=1.0),
        ),
    )


@pytest.fixture
def report() -> Report:
    """Return a report of two contenders and two rounds with known latencies; the second's name needs escaping."""
    contenders = tuple(
        Contender(
            label=label,
            plan_name="parnet_tiny",
            plan_sha256="0" * 64,
            backend="null",
            backend_version="1",
            devices=(DeviceRecord(device="cpu", name="processor", capability="any"),),
            form="fused",
            partition="streams",
            precision="fp32",
            batch=BatchRange(),
            input_shape=(3, 16, 16),
            latency=latency_statistics([latency for latencies in rounds for latency in latencies]),
            samples_per_second=100.0,
            cold_start_ms=123.0,
            peak_memory_bytes=50 * 2**20,
            stages=make_round(rounds[0]).stages,
            rounds=tuple(make_round(latencies) for latencies in rounds),
        )
        for label, rounds in ROUND_LATENCIES_NS.items()
    )
    machine = Machine(
        cpu="processor", logical_cores=2, usable_cores=2, memory_bytes=2**34, system="Linux", python="3", packages={}
    )
    return Report(
        tool_version="0",
        created="2020-01-01T00:00:00+00:00",
        settings=settings_for("single-stream", min_queries=3, duration_ms=10),
        machine=machine,
        contenders=contenders,
        ratios=ratios_of(contenders),
    )
