"""Partitions: every one of them a DAG over named tensors, for 1 to 4 streams."""

from __future__ import annotations

import pytest

from parnet_deploy.artifacts.schemas import NetworkConfig, Stage
from parnet_deploy.errors import ExportError
from parnet_deploy.planning.partition import PARTITIONS, boundary_names, partition


def network_of(streams: int) -> NetworkConfig:
    """A network with a number of streams."""
    return NetworkConfig(stem=(8,), planes=(8,) * streams, num_blocks=(1,) * streams, last_planes=8)


def lines(stages: tuple[Stage, ...]) -> list[str]:
    """Render stages as short lines."""
    return [f"{stage.name}: {' '.join(stage.inputs)} > {' '.join(stage.outputs)}" for stage in stages]


TERMS_OF_JOIN = (
    "fusion2/finer/conv fusion2/finer/gate fusion2/stream/conv fusion2/stream/gate "
    "fusion3/stream/conv fusion3/stream/gate"
)
STEM_PIECES = ["stem: image > stem", "level2: stem > level2", "level3: level2 > level3"]
THREE_STREAMS = {
    "whole": ["whole: image > logits"],
    "streams": [
        "stream1: image > stream1",
        "stream2: image > stream2",
        "stream3: image > stream3",
        "join: stream1 stream2 stream3 > logits",
    ],
    "shared-stem": [
        *STEM_PIECES,
        "stream1: stem > stream1",
        "stream2: level2 > stream2",
        "stream3: level3 > stream3",
        "join: stream1 stream2 stream3 > logits",
    ],
    "terms": [
        "stream1: image > fusion2/finer/conv fusion2/finer/gate",
        "stream2: image > fusion2/stream/conv fusion2/stream/gate",
        "stream3: image > fusion3/stream/conv fusion3/stream/gate",
        f"join: {TERMS_OF_JOIN} > logits",
    ],
    "terms-shared-stem": [
        *STEM_PIECES,
        "stream1: stem > fusion2/finer/conv fusion2/finer/gate",
        "stream2: level2 > fusion2/stream/conv fusion2/stream/gate",
        "stream3: level3 > fusion3/stream/conv fusion3/stream/gate",
        f"join: {TERMS_OF_JOIN} > logits",
    ],
}


def test_three_streams_are_cut_as_the_names_say() -> None:
    assert {name: lines(partition(network_of(3), name)) for name in PARTITIONS} == THREE_STREAMS


@pytest.mark.parametrize("streams", [1, 2, 3, 4])
@pytest.mark.parametrize("name", PARTITIONS)
def test_every_partition_is_a_dag_from_image_to_logits(name: str, streams: int) -> None:
    stages = partition(network_of(streams), name)
    ready = {"image"}
    cuts = set(boundary_names(streams, with_terms=True))
    for stage in stages:
        assert set(stage.inputs) <= ready
        assert not set(stage.outputs) & ready
        assert len(set(stage.inputs)) == len(stage.inputs)
        assert set(stage.outputs) <= cuts | {"logits"}
        ready |= set(stage.outputs)
    assert stages[-1].outputs == ("logits",)
    assert len({stage.name for stage in stages}) == len(stages)
    used = {tensor for stage in stages for tensor in stage.inputs}
    assert ready - used == {"logits"}


@pytest.mark.parametrize("streams", [1, 2, 3, 4])
def test_the_number_of_stages(streams: int) -> None:
    counts = {name: len(partition(network_of(streams), name)) for name in PARTITIONS}
    assert counts == {
        "whole": 1,
        "streams": streams + 1,
        "shared-stem": 2 * streams + 1,
        "terms": streams + 1,
        "terms-shared-stem": 2 * streams + 1,
    }


def test_one_stream_has_no_terms() -> None:
    cfg = network_of(1)
    assert lines(partition(cfg, "terms")) == ["stream1: image > stream1", "join: stream1 > logits"]
    assert partition(cfg, "terms-shared-stem") == partition(cfg, "shared-stem")


def test_boundary_names() -> None:
    assert boundary_names(1, with_terms=True) == ("stem", "stream1")
    assert boundary_names(3, with_terms=False) == (
        *("stem", "level2", "level3"),
        *("stream1", "stream2", "stream3"),
        *("fusion1", "fusion2", "fusion3"),
    )
    with_terms = boundary_names(3, with_terms=True)
    assert with_terms[:9] == boundary_names(3, with_terms=False)
    assert with_terms[9:] == tuple(
        f"fusion{i}/{side}/{what}" for i in (2, 3) for side in ("stream", "finer") for what in ("conv", "gate")
    )


def test_an_unknown_partition_is_refused_with_the_list() -> None:
    with pytest.raises(ExportError, match="no partition 'halves'") as caught:
        partition(network_of(3), "halves")
    assert caught.value.remedy == "one of: whole, streams, shared-stem, terms, terms-shared-stem"


@pytest.mark.parametrize("name", PARTITIONS)
def test_terms_need_the_fused_form(name: str) -> None:
    if not name.startswith("terms"):
        assert partition(network_of(3), name, form="training") == partition(network_of(3), name)
        return
    with pytest.raises(ExportError, match=r"(?s)cuts inside the fused Fusion blocks.*parnet-deploy fuse"):
        partition(network_of(3), name, form="training")
