"""Stages of a built plan in other arrangements: only lanes, threads, cores and the schedule change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import (
    BatchRange,
    DeviceRecord,
    EngineRecord,
    FileRecord,
    Lane,
    NetworkConfig,
    Parent,
    Plan,
    Preprocessing,
    TensorSpec,
)
from parnet_deploy.planning.arrangement import Arrangement, arrange
from parnet_deploy.planning.partition import partition
from parnet_deploy.planning.placement import device_lanes, place, split_cores
from parnet_deploy.planning.schedule import schedule

NETWORK = NetworkConfig(stem=(4, 8), planes=(8, 16, 32), num_blocks=(1, 1, 1), last_planes=16, num_classes=10)


def plan_of(cut: str, device: str = "cpu") -> Plan:
    """A plan of three streams as it is built by default."""
    stages = partition(NETWORK, cut)
    placement = place(stages, device_lanes(device, len(stages)))
    tensors = {name: TensorSpec(dtype="float32", shape=(8, 4, 4)) for stage in stages for name in stage.outputs}
    tensors |= {
        "image": TensorSpec(dtype="float32", shape=(3, 32, 32)),
        "logits": TensorSpec(dtype="float32", shape=(10,)),
    }
    empty = FileRecord(name="engine.null", sha256="0" * 64, size_bytes=0)
    return Plan(
        name="three",
        parent=Parent(kind="bundle", name="three", sha256="0" * 64),
        form="fused",
        network=NETWORK,
        precision="fp32",
        partition=cut,
        batch=BatchRange(),
        preprocessing=Preprocessing(input_size=(3, 32, 32)),
        tensors=tensors,
        backend="null",
        backend_version="1",
        devices=(DeviceRecord(device=device, name="null", capability="any"),),
        stages=stages,
        engines=tuple(EngineRecord(stage=stage.name, file=empty) for stage in stages),
        placement=placement,
        schedule=schedule(stages, placement),
    )


@pytest.mark.parametrize(
    ("arrangement", "lanes", "threads", "cores"),
    [
        (Arrangement(4), 1, {"stream1": 4, "join": 4}, {"stream1": (), "join": ()}),
        (Arrangement(4, "side by side"), 3, {"stream1": 2, "stream2": 1, "stream3": 1, "join": 4}, {"stream1": ()}),
        (Arrangement(4, "side by side", "all"), 3, {"stream1": 4, "stream3": 4, "join": 4}, {"stream3": ()}),
        (
            Arrangement(4, "side by side", is_pinned=True),
            3,
            {"stream1": 2, "stream2": 1, "stream3": 1, "join": 4},
            {"stream1": (10, 12), "stream2": (14,), "stream3": (16,), "join": (10, 12, 14, 16)},
        ),
        (Arrangement(2, "side by side"), 3, {"stream1": 1, "stream2": 1, "stream3": 1, "join": 2}, {"join": ()}),
    ],
    ids=str,
)
def test_lanes_threads_and_cores(
    arrangement: Arrangement, lanes: int, threads: dict[str, int], cores: dict[str, tuple[int, ...]]
) -> None:
    before = plan_of("streams")
    after = arrange(before, arrangement, (10, 12, 14, 16, 18))
    assert len(set(after.placement.values())) == lanes
    by_stage = {engine.stage: engine for engine in after.engines}
    assert {stage: by_stage[stage].threads for stage in threads} == threads
    assert {stage: by_stage[stage].cores for stage in cores} == cores
    same = {"placement": before.placement, "schedule": before.schedule, "engines": before.engines}
    assert after.model_copy(update=same) == before
    assert Plan.model_validate(after.model_dump()) == after


def test_on_a_gpu_only_the_order_changes() -> None:
    plan = plan_of("streams", "cuda:1")
    after = arrange(plan, Arrangement(1), (0,))
    assert set(after.placement.values()) == {Lane(device="cuda:1")}
    assert after.engines == plan.engines
    assert len(set(arrange(after, Arrangement(1, "side by side"), (0,)).placement.values())) == 3


def test_what_cannot_be_arranged_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cores where 4 are asked for"):
        arrange(plan_of("whole"), Arrangement(4), (0, 1))
    with pytest.raises(ValueError, match="at least one core"):
        Arrangement(0)
    with pytest.raises(ValueError, match="cannot be kept on cores of their own"):
        Arrangement(4, "side by side", "all", is_pinned=True)


@given(cut=st.sampled_from(["whole", "streams", "shared-stem"]), count=st.integers(1, 9), first=st.integers(0, 3))
def test_stages_that_run_at_once_share_no_core_while_there_are_enough(cut: str, count: int, first: int) -> None:
    stages = partition(NETWORK, cut)
    placement = place(stages, device_lanes("cpu", len(stages)))
    cores = range(first, first + count)
    shares = split_cores(stages, placement, cores)
    assert all(share and set(share) <= set(cores) for share in shares.values())
    streams = [share for stage, share in shares.items() if stage.startswith("stream")]
    if len(streams) > 1 and cut == "streams":
        taken = [core for share in streams for core in share]
        assert len(set(taken)) == min(len(taken), count)
        assert set(taken) == set(cores) if count >= len(streams) else len(taken) == len(streams)
    assert set(shares[stages[-1].name]) == set(cores)
