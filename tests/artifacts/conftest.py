"""A bundle and a plan on disk, with stand-ins for the ONNX and engine files."""

from __future__ import annotations

from pathlib import Path

import pytest

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.schemas import (
    BatchRange,
    Bundle,
    BundleStage,
    DeviceRecord,
    EngineRecord,
    FileRecord,
    Lane,
    Launch,
    NetworkConfig,
    Parent,
    Plan,
    Preprocessing,
    Record,
    Stage,
    TensorSpec,
    Wait,
)

NETWORK = NetworkConfig(stem=(4, 8), planes=(8, 12), num_blocks=(1, 1), last_planes=16, num_classes=3)
TENSORS = {
    "image": TensorSpec(dtype="float32", shape=(3, 32, 32)),
    "stream1": TensorSpec(dtype="float32", shape=(8, 8, 8)),
    "stream2": TensorSpec(dtype="float16", shape=(12, 4, 4)),
    "logits": TensorSpec(dtype="float32", shape=(3,)),
}
STAGES = (
    Stage(name="stream1", inputs=("image",), outputs=("stream1",)),
    Stage(name="stream2", inputs=("image",), outputs=("stream2",)),
    Stage(name="join", inputs=("stream1", "stream2"), outputs=("logits",)),
)


def write_files(folder: Path, suffix: str) -> dict[str, FileRecord]:
    """Write one file per stage and describe it."""
    folder.mkdir()
    for stage in STAGES:
        (folder / f"{stage.name}{suffix}").write_bytes(f"the {suffix} file of {stage.name}".encode())
    return {stage.name: FileRecord.of(folder / f"{stage.name}{suffix}") for stage in STAGES}


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, Bundle]:
    """A bundle of three stages, and its manifest."""
    folder = tmp_path / "bundle"
    files = write_files(folder, ".onnx")
    manifest = Bundle(
        name="parnet",
        parent=Parent(kind="checkpoint", name="net.safetensors", sha256="a" * 64),
        form="fused",
        network=NETWORK,
        precision="fp32",
        partition="streams",
        batch=BatchRange(min=1, opt=2, max=4),
        preprocessing=Preprocessing(input_size=(3, 32, 32)),
        label_names=("a", "b", "c"),
        tensors=TENSORS,
        stages=tuple(
            BundleStage(**stage.model_dump(), file=files[stage.name], node_counts={"Conv": 2}) for stage in STAGES
        ),
        tools={"torch": "2"},
    )
    write_manifest(folder / "bundle.json", manifest)
    return folder, manifest


@pytest.fixture
def plan(tmp_path: Path) -> tuple[Path, Plan]:
    """A plan of three engines on two lanes, and its manifest."""
    folder = tmp_path / "plan"
    files = write_files(folder, ".engine")
    lanes = (Lane(device="cpu", stream=0), Lane(device="cpu", stream=1))
    manifest = Plan(
        name="parnet",
        parent=Parent(kind="bundle", name="bundle", sha256="b" * 64),
        form="fused",
        network=NETWORK,
        precision="fp32",
        partition="streams",
        batch=BatchRange(),
        preprocessing=Preprocessing(input_size=(3, 32, 32)),
        tensors=TENSORS,
        backend="null",
        backend_version="1",
        devices=(DeviceRecord(device="cpu", name="a CPU", capability="x86_64"),),
        stages=STAGES,
        engines=tuple(EngineRecord(stage=stage.name, file=files[stage.name]) for stage in STAGES),
        placement={"stream1": lanes[0], "stream2": lanes[1], "join": lanes[0]},
        schedule=(
            Launch(lane=lanes[0], stage="stream1"),
            Launch(lane=lanes[1], stage="stream2"),
            Record(lane=lanes[1], event="stream2"),
            Wait(lane=lanes[0], event="stream2"),
            Launch(lane=lanes[0], stage="join"),
        ),
    )
    write_manifest(folder / "plan.json", manifest)
    return folder, manifest
