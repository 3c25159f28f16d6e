"""Placement and thread counts: independent stages side by side, chains on one lane."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import Lane, Stage
from parnet_deploy.planning.partition import PARTITIONS
from parnet_deploy.planning.placement import device_lanes, find_ancestors, place, split_cores, split_threads


@st.composite
def dags(draw: st.DrawFn) -> tuple[Stage, ...]:
    """Random stages in topological order; each takes some tensors made before it."""
    tensors = ["image"]
    stages = []
    for index in range(draw(st.integers(1, 8))):
        inputs = tuple(draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3, unique=True)))
        outputs = tuple(f"t{index}.{part}" for part in range(draw(st.integers(1, 2))))
        stages.append(Stage(name=f"s{index}", inputs=inputs, outputs=outputs))
        tensors += outputs
    return tuple(stages)


def lanes_of(partition: str, num_streams: int, count: int) -> dict[str, str]:
    stages = PARTITIONS[partition](num_streams)
    return {name: str(lane) for name, lane in place(stages, device_lanes("cpu", count)).items()}


def test_streams_run_side_by_side_and_the_join_stays_with_the_first() -> None:
    assert lanes_of("streams", 3, 9) == {"stream1": "cpu/0", "stream2": "cpu/1", "stream3": "cpu/2", "join": "cpu/0"}


def test_the_longest_chain_of_a_shared_stem_keeps_one_lane() -> None:
    assert lanes_of("shared-stem", 3, 9) == {
        "stem": "cpu/0",
        "level2": "cpu/0",
        "level3": "cpu/0",
        "stream3": "cpu/0",
        "stream1": "cpu/1",
        "stream2": "cpu/2",
        "join": "cpu/0",
    }


def test_whole_network_takes_one_of_many_lanes() -> None:
    assert lanes_of("whole", 3, 9) == {"whole": "cpu/0"}


def test_one_lane_takes_everything() -> None:
    assert set(lanes_of("terms-shared-stem", 4, 1).values()) == {"cpu/0"}


def test_streams_spread_over_gpus_or_over_streams_of_one_gpu() -> None:
    stages = PARTITIONS["streams"](3)
    gpus = tuple(Lane(device=f"cuda:{index}") for index in range(3))
    assert [str(lane) for lane in place(stages, gpus).values()] == ["cuda:0/0", "cuda:1/0", "cuda:2/0", "cuda:0/0"]
    streams = device_lanes("cuda:0", 3)
    assert [str(lane) for lane in place(stages, streams).values()] == ["cuda:0/0", "cuda:0/1", "cuda:0/2", "cuda:0/0"]


def test_durations_decide_which_lane_a_fourth_branch_and_the_join_take() -> None:
    stages = PARTITIONS["streams"](3)
    lanes = place(stages, device_lanes("cpu", 2), {"stream1": 5.0, "stream2": 2.0, "stream3": 4.0, "join": 1.0})
    # Stream 3 starts at 2 ms behind stream 2 and ends at 6 ms, after stream 1: the join stays behind it.
    assert [str(lane) for lane in lanes.values()] == ["cpu/0", "cpu/1", "cpu/1", "cpu/1"]


def test_ancestors_are_transitive() -> None:
    ancestors = find_ancestors(PARTITIONS["shared-stem"](2))
    assert ancestors["stream2"] == {"stem", "level2"}
    assert ancestors["join"] == {"stem", "level2", "stream1", "stream2"}
    assert ancestors["stem"] == frozenset()


@pytest.mark.parametrize("lanes", [(), (Lane(device="cpu"), Lane(device="cpu"))])
def test_no_lanes_or_repeated_lanes_are_refused(lanes: tuple[Lane, ...]) -> None:
    with pytest.raises(ValueError, match="at least one lane, each once"):
        place(PARTITIONS["whole"](1), lanes)


@given(dags())
def test_with_lanes_to_spare_no_lane_holds_two_independent_stages(stages: tuple[Stage, ...]) -> None:
    placement = place(stages, device_lanes("cpu", len(stages)))
    ancestors = find_ancestors(stages)
    for first, second in itertools.combinations([stage.name for stage in stages], 2):
        if placement[first] == placement[second]:
            assert first in ancestors[second]


@given(dags())
def test_with_lanes_to_spare_a_chain_keeps_its_lane(stages: tuple[Stage, ...]) -> None:
    chain = tuple(
        Stage(name=stage.name, inputs=(stages[index - 1].outputs[0] if index else "image",), outputs=stage.outputs)
        for index, stage in enumerate(stages)
    )
    assert {str(lane) for lane in place(chain, device_lanes("cpu", len(chain))).values()} == {"cpu/0"}


@pytest.mark.parametrize(
    ("partition", "cores", "expected"),
    [
        ("whole", 4, {"whole": 4}),
        ("streams", 1, {"stream1": 1, "stream2": 1, "stream3": 1, "join": 1}),
        ("streams", 2, {"stream1": 1, "stream2": 1, "stream3": 1, "join": 2}),
        ("streams", 8, {"stream1": 3, "stream2": 3, "stream3": 2, "join": 8}),
        (
            "shared-stem",
            8,
            {"stem": 8, "level2": 4, "level3": 3, "stream3": 3, "stream1": 3, "stream2": 2, "join": 8},
        ),
    ],
)
def test_threads_of_known_partitions(partition: str, cores: int, expected: dict[str, int]) -> None:
    stages = PARTITIONS[partition](3)
    assert split_threads(stages, place(stages, device_lanes("cpu", 9)), cores) == expected


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ((4, 5, 6, 7, 9), [(4, 5), (6, 7), (9,)]),
        ((0, 2, 4, 6), [(0, 2), (4,), (6,)]),
        ((3, 1, 2), [(3,), (1,), (2,)]),
        ((7, 8), [(7,), (8,), (7,)]),
    ],
)
def test_cores_are_shared_without_overlap_where_there_are_enough(
    cores: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    stages = PARTITIONS["streams"](3)
    placement = place(stages, device_lanes("cpu", 9))
    # Nothing runs while the join does.
    wanted = dict(zip(("stream1", "stream2", "stream3", "join"), [*expected, cores], strict=True))
    assert split_cores(stages, placement, cores) == wanted


def test_stages_on_one_lane_never_share_cores() -> None:
    stages = PARTITIONS["streams"](3)
    assert set(split_threads(stages, place(stages, device_lanes("cpu", 1)), 6).values()) == {6}


@given(dags(), st.integers(1, 4), st.integers(1, 9), st.data())
def test_stages_that_run_together_never_have_more_threads_than_cores(
    stages: tuple[Stage, ...], lane_count: int, cores: int, data: st.DataObject
) -> None:
    lanes = device_lanes("cpu", lane_count)
    placement = {stage.name: data.draw(st.sampled_from(lanes)) for stage in stages}
    threads = split_threads(stages, placement, cores)
    ancestors = find_ancestors(stages)
    names = [stage.name for stage in stages]
    for size in range(1, lane_count + 1):
        for together in itertools.combinations(names, size):
            independent = all(a not in ancestors[b] for a, b in itertools.permutations(together, 2))
            if independent and len({placement[name] for name in together}) == size:
                assert sum(threads[name] for name in together) <= max(cores, lane_count)
