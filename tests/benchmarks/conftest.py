"""Results of a benchmark that was never run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from benchmarks.cases import BASELINE, CUDA_BASELINE, CUDA_PEAK
from benchmarks.contenders.matmul import CUDA_GFLOP, GFLOP
from benchmarks.records import CaseResult, ContenderResult, Results, Run, Sitting
from parnet_deploy.artifacts.report import Machine
from parnet_deploy.bench.statistics import latency_statistics


def run_of(ms: float, device_ms: float | None = None) -> Run:
    """A run of which every request took the same time."""
    return Run(
        latency=latency_statistics([round(ms * 1e6)] * 5),
        process_ms=300,
        open_ms=100,
        first_ms=2 * ms,
        peak_bytes=300 * 2**20,
        device_ms=device_ms,
        difference=1e-6,
        details={},
    )


@pytest.fixture
def make_entry() -> Callable[..., ContenderResult]:
    """A function (name, role, milliseconds of each round) that returns a contender's result."""

    def make(
        name: str, role: str, rounds: Sequence[float], precision: str = "fp32", device_ms: float | None = None
    ) -> ContenderResult:
        runs = tuple(run_of(ms, device_ms) for ms in rounds)
        return ContenderResult(name=name, role=role, precision=precision, runs=runs)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_case(make_entry: Callable[..., ContenderResult]) -> Callable[..., CaseResult]:
    """A function that returns a case whose matrix product reached 1000 GFLOP/s, with the contenders given."""

    def make(*entries: ContenderResult, network: str = "parnet_l", batch: int = 1, pixels: int = 224) -> CaseResult:
        rounds = len(entries[0].runs)
        return CaseResult(
            network=network,
            pixels=pixels,
            batch=batch,
            gflop=20.0,
            parameters=55_000_000,
            rounds=rounds,
            contenders=(make_entry("matrix product", "peak", [GFLOP] * rounds), *entries),
        )

    return make


@pytest.fixture
def make_results(
    make_case: Callable[..., CaseResult], make_entry: Callable[..., ContenderResult]
) -> Callable[..., Results]:
    """A function (our latency) that returns the results of two networks."""

    def make(ours_ms: float = 80.0, load: float = 0.1) -> Results:
        ours = make_entry("parnet-deploy, ncnn, whole", "ours", [ours_ms, ours_ms * 1.1, ours_ms * 0.9])
        same = make_entry("parnet-deploy, onnxruntime, whole", "ours", [99.0, 99.0, 99.0])
        plain = make_entry(BASELINE, "peer", [100.0, 100.0, 100.0])
        left_out = ContenderResult(
            name="ncnn by pnnx, fused", role="peer", precision="fp32", runs=(), skipped="no pnnx"
        )
        sitting = Sitting(
            tool_version="0",
            created="2026-01-02T03:04:05+00:00",
            machine=Machine(
                cpu="Some CPU",
                capability="sve",
                logical_cores=4,
                usable_cores=2,
                memory_bytes=2**34,
                system="s",
                python="p",
                packages={},
            ),
            versions={"onnxruntime": "1"},
            load_at_start=load,
            cases=(
                make_case(ours, same, plain, left_out),
                make_case(make_entry("ONNX Runtime, plain export", "peer", [25.0] * 3), network="resnet50"),
                make_case(ours, plain, batch=8),
            ),
        )
        return Results(device="cpu", sittings=(sitting,))

    return make


@pytest.fixture
def gpu_results(make_results: Callable[..., Results], make_entry: Callable[..., ContenderResult]) -> Results:
    """Results of a GPU whose float16 product reached 500 TFLOP/s; not every contender was timed by its clock."""
    half: dict[str, Any] = {"precision": "fp16"}
    entries = (
        make_entry(CUDA_PEAK.name, "peak", [CUDA_GFLOP / 500] * 2, **half),
        make_entry("parnet-deploy, torch, three streams, graph", "ours", [0.8, 0.9], **half),
        make_entry(CUDA_BASELINE, "peer", [1.2, 1.2], device_ms=1.13, **half),
    )
    sitting = make_results().sittings[0]
    case = sitting.cases[0].model_copy(update={"contenders": entries, "rounds": 2})
    larger = case.model_copy(update={"batch": 8, "gflop": 160.0})
    machine = sitting.machine.model_copy(update={"usable_cores": 16})
    update = {"cases": (case, larger), "machine": machine, "load_at_start": 1.4}
    return Results(device="Some GPU", sittings=(sitting.model_copy(update=update),))
