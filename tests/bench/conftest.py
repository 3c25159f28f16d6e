"""Plans to measure: without a network behind them (null backend), or of known cost; reports with known numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.measurements import BenchRound, ColdStart, StageTiming, SweepPoint
from parnet_deploy.artifacts.report import Contender, Machine, MeasuredPlan, Report
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
    Stage,
    TensorSpec,
)
from parnet_deploy.bench.baseline import Baseline, compare_with
from parnet_deploy.bench.contenders import contender_of, ratios_of
from parnet_deploy.bench.output.plots import report_pictures
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.statistics import latency_statistics
from parnet_deploy.engines import build_plan
from parnet_deploy.planning.partition import partition
from parnet_deploy.reporting.document import Picture

NETWORK = NetworkConfig(stem=(4, 8), planes=(8, 16), num_blocks=(1, 1), last_planes=16, num_classes=10)
SIZE = 16


def write_bundle(folder: Path, stages: tuple[Stage, ...], partition_name: str, batch: BatchRange) -> Path:
    """Write the manifest of a bundle whose graphs are in the folder."""
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


def make_bundle(folder: Path, partition_name: str, batch: BatchRange) -> Path:
    """Write a bundle whose manifest is sound and whose graphs are empty files."""
    stages = partition(NETWORK, partition_name)
    folder.mkdir(parents=True)
    for stage in stages:
        (folder / f"{stage.name}.onnx").write_bytes(stage.name.encode())
    return write_bundle(folder, stages, partition_name, batch)


@pytest.fixture
def null_plan(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that builds a plan of the null backend: (name, partition name, batch range) to its folder."""

    def build(name: str, partition_name: str = "whole", batch: BatchRange | None = None) -> Path:
        bundle = make_bundle(tmp_path / "bundles" / name, partition_name, batch or BatchRange())
        return build_plan(bundle, tmp_path / name, backend="null")

    return build


@pytest.fixture
def layered_plan(tmp_path: Path) -> Callable[[str, int], Path]:
    """Return a function that builds a plan for ONNX Runtime of so many equal convolutions: (path, count) to its folder.

    Their number decides how long an inference takes.
    """

    def build(path: str, count: int) -> Path:
        bundle = tmp_path / "bundles" / path
        bundle.mkdir(parents=True)
        kernel = np.full((16, 16, 3, 3), 1e-3, np.float32)
        weights = [
            numpy_helper.from_array(np.full((16, 3, 3, 3), 1e-3, np.float32), "first"),
            numpy_helper.from_array(kernel, "kernel"),
            numpy_helper.from_array(np.ones((16, NETWORK.num_classes), np.float32), "head"),
        ]
        nodes = [helper.make_node("Conv", ["image", "first"], ["t0"], pads=[1] * 4)]
        nodes += [
            helper.make_node("Conv", [f"t{index}", "kernel"], [f"t{index + 1}"], pads=[1] * 4) for index in range(count)
        ]
        nodes += [
            helper.make_node("GlobalAveragePool", [f"t{count}"], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["flat"]),
            helper.make_node("Gemm", ["flat", "head"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes,
            "layers",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, NETWORK.num_classes])],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, bundle / "whole.onnx")
        stages = (Stage(name="whole", inputs=("image",), outputs=("logits",)),)
        return build_plan(write_bundle(bundle, stages, "whole", BatchRange()), tmp_path / path, backend="onnxruntime")

    return build


ROUND_LATENCIES_NS = {
    "base": ((10_000_000, 12_000_000, 11_000_000), (10_000_000, 14_000_000, 12_000_000)),
    "<fast> & $new$": ((5_000_000, 6_000_000, 5_500_000), (4_000_000, 6_000_000, 5_000_000)),
}
MACHINE = Machine(
    cpu="processor",
    capability="new",
    logical_cores=2,
    usable_cores=2,
    memory_bytes=2**34,
    load_before=0.25,
    system="Linux",
    python="3",
    packages={"onnxruntime": "1.0"},
)


def timing(stage: str, start_ms: float, duration_ms: float, wait_ms: float = 0.0, lane: str = "cpu/0") -> StageTiming:
    """Return a stage's times; half of the wait the lane was busy."""
    device, _, stream = lane.partition("/")
    return StageTiming(
        stage=stage,
        lane=Lane(device=device, stream=int(stream)),
        is_copy=" to " in stage,
        start_ms=start_ms,
        duration_ms=duration_ms,
        wait_ms=wait_ms,
        lane_busy_ms=wait_ms / 2,
    )


def make_round(latencies_ns: tuple[int, ...], stages: tuple[StageTiming, ...]) -> BenchRound:
    """Return a single-stream round with these latencies; its other figures are constants."""
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
        stages=stages,
        timeline=stages,
    )


def make_plan(label: str, *, form: str = "fused", partition_name: str = "streams") -> MeasuredPlan:
    """Return what a plan on the processor is."""
    return MeasuredPlan(
        label=label,
        plan_name="parnet_tiny",
        plan_sha256="0" * 64,
        backend="null",
        backend_version="1",
        devices=(DeviceRecord(device="cpu", name="processor", capability="any"),),
        form=form,  # type: ignore[arg-type]
        partition=partition_name,
        precision="fp32",
        batch=BatchRange(),
        input_shape=(3, 16, 16),
    )


def make_report(contenders: tuple[Contender, ...], machine: Machine = MACHINE) -> Report:
    """Return a single-stream report of these contenders."""
    return Report(
        tool_version="0",
        created="2020-01-01T00:00:00+00:00",
        settings=settings_for("single-stream", min_queries=3, duration_ms=10),
        machine=machine,
        contenders=contenders,
        ratios=ratios_of(contenders),
    )


@pytest.fixture(scope="session")
def report() -> Report:
    """Return a report of two contenders and two rounds with known latencies; the second's name needs escaping."""
    stages = (timing("stream1", 0.5, 4.0, 0.5), timing("stream2", 0.7, 3.0, 0.7, "cpu/1"), timing("join", 4.5, 1.0))
    forms = {"base": ("training", "whole"), "<fast> & $new$": ("fused", "streams")}
    contenders = tuple(
        contender_of(
            make_plan(label, form=forms[label][0], partition_name=forms[label][1]),
            [make_round(latencies, stages) for latencies in rounds],
            harness=latency_statistics([12_000, 15_000, 20_000]),
        )
        for label, rounds in ROUND_LATENCIES_NS.items()
    )
    return make_report(contenders)


@pytest.fixture(scope="session")
def full_report(report: Report) -> Report:
    """Return a report that has everything: GPUs with copies, a sweep, a long name, a comparison."""
    stages = (
        timing("stream1", 1.0, 4.0, 0.25, "cuda:0/0"),
        timing("stream2", 0.5, 3.0, 0.0, "cuda:1/0"),
        timing("join", 6.0, 1.5, 0.5, "cuda:0/0"),
        timing("image to cuda:0", 0.0, 1.0, 0.0, "cuda:0/0"),
        timing("stream2 to cuda:0", 3.5, 2.0, 0.0, "cuda:1/0"),
    )
    gpus = tuple(DeviceRecord(device=f"cuda:{index}", name="A GPU of Some Name", capability="8.6") for index in (0, 1))
    split = make_plan("somewhere/with/a/long/path/plan_split_over_two_gpus").model_copy(
        update={"devices": gpus, "bytes_across": 512_000, "bytes_host": 3_000}
    )
    rounds = [make_round(latencies, stages) for latencies in ((3_000_000, 9_000_000), (3_500_000, 4_000_000))]
    sweep = [
        SweepPoint(
            concurrency=concurrency,
            batch=batch,
            latency=latency_statistics([concurrency * batch * 1_000_000] * 8),
            samples_per_second=1000.0 * batch**0.5,
            peak_memory_bytes=2**27,
        )
        for concurrency in (1, 2, 4)
        for batch in (1, 8)
    ]
    contenders = (*report.contenders, contender_of(split, rounds, sweep=sweep))
    whole = make_report(contenders, MACHINE.model_copy(update={"load_before": 3.5}))
    baseline = Baseline(Path("earlier"), whole, "min_latency", "absolute", 0.05)
    return whole.model_copy(
        update={"comparison": compare_with(baseline, contenders, ("onnxruntime was 1.0, now 2.0",))}
    )


@pytest.fixture(scope="session")
def full_pictures(full_report: Report) -> dict[str, Picture]:
    """Return the pictures of `full_report`, which take some seconds to draw."""
    return report_pictures(full_report)
