"""The search: by hand on small graphs, and against every placement there is on random ones."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parnet_deploy.artifacts.schemas import Lane, Stage
from parnet_deploy.planning.links import LINKS, Link
from parnet_deploy.planning.partition import PARTITIONS
from parnet_deploy.planning.search import Prediction, Workload, predict, search

FREE = Link(name="free", latency_us=0, bandwidth_gb_s=1e9, host_latency_us=0, host_bandwidth_gb_s=1e9)
# A microsecond per kilobyte between devices, nothing else.
WIRE = FREE.model_copy(update={"bandwidth_gb_s": 1.0})
GPUS = tuple(Lane(device=f"cuda:{index}") for index in range(3))
DIAMOND = (
    Stage(name="stem", inputs=("image",), outputs=("stem",)),
    Stage(name="left", inputs=("stem",), outputs=("left",)),
    Stage(name="right", inputs=("stem",), outputs=("right",)),
    Stage(name="join", inputs=("left", "right"), outputs=("logits",)),
)
DIAMOND_MS = {"stem": 1.0, "left": 2.0, "right": 3.0, "join": 0.5}
# 1 MB: one millisecond over the wire.
DIAMOND_BYTES = {"image": 10**3, "stem": 10**6, "left": 10**6, "right": 10**6, "logits": 10}


def diamond(**changed_bytes: int) -> Workload:
    return Workload(DIAMOND, DIAMOND_MS, DIAMOND_BYTES | changed_bytes)


def devices_of(prediction: Prediction) -> dict[str, str]:
    return {stage: str(lane) for stage, lane in prediction.placement.items()}


def test_one_lane_takes_the_sum() -> None:
    (best,) = search(diamond(), FREE, devices=1, top=9)
    assert best.latency_ms == pytest.approx(1 + 2 + 3 + 0.5, abs=1e-4)
    assert best.throughput_per_s == pytest.approx(1e3 / best.latency_ms)
    assert best.bytes_across == 0
    assert best.bytes_host == 10**3 + 10


def test_streams_of_one_device_take_the_critical_path_and_nothing_crosses() -> None:
    best = search(diamond(), WIRE, devices=1, streams=2)[0]
    assert best.latency_ms == pytest.approx(1 + 3 + 0.5, abs=1e-4)
    assert best.bytes_across == 0
    # Of two that are equal, the one that opens a lane later.
    assert devices_of(best) == {"stem": "cuda:0/0", "left": "cuda:0/0", "right": "cuda:0/1", "join": "cuda:0/0"}
    # The busiest lane lets a request through every 1 + 2 + 0.5 ms.
    assert best.throughput_per_s == pytest.approx(1e3 / 3.5, rel=1e-3)


def test_a_copy_is_paid_where_it_is_worth_it() -> None:
    # Right goes to a second device 0.2 ms away, where left arrives long before it ends; the sender sends first.
    best = search(diamond(stem=200_000, left=100_000), WIRE, devices=3)[0]
    assert best.latency_ms == pytest.approx(1 + 0.2 + 3 + 0.5, abs=1e-4)
    assert devices_of(best) == {"stem": "cuda:0/0", "left": "cuda:0/0", "right": "cuda:1/0", "join": "cuda:1/0"}
    assert best.bytes_across == 300_000
    assert best.throughput_per_s == pytest.approx(1e3 / 3.5, rel=1e-3)
    # The sender's lane is held by its copies, too: with right at 0.1 ms it is the busiest.
    swift = Workload(DIAMOND, DIAMOND_MS | {"right": 0.1}, DIAMOND_BYTES | {"stem": 200_000, "left": 100_000})
    placement = dict(best.placement)
    assert predict(swift, placement, WIRE).throughput_per_s == pytest.approx(1e3 / (1 + 0.2 + 2 + 0.1), rel=1e-3)


def test_copies_that_cost_more_than_they_save_keep_everything_on_one_device() -> None:
    best = search(diamond(stem=3_000_000), WIRE, devices=3)[0]
    assert set(devices_of(best).values()) == {"cuda:0/0"}
    assert best.latency_ms == pytest.approx(6.5, abs=1e-4)


def test_equal_devices_count_once() -> None:
    # Four stages on up to three equal devices: 1 + 7 + 6 ways to group them; on one, two, three of 81 renamed ways.
    found = search(diamond(), WIRE, devices=3, top=1000)
    assert len(found) == 1 + 7 + 6
    # Two streams of each of two devices: groups of stages into lanes (at most four), then lanes into devices.
    assert len(search(diamond(), WIRE, devices=2, streams=2, top=1000)) == count_by_hand(devices=2, streams=2)
    for prediction in found:
        renamed = {"cuda:0": GPUS[2], "cuda:1": GPUS[0], "cuda:2": GPUS[1]}
        placement = {stage: renamed[lane.device] for stage, lane in prediction.placement.items()}
        again = predict(diamond(), placement, WIRE)
        assert again.latency_ms == pytest.approx(prediction.latency_ms)
        assert again.bytes_across == prediction.bytes_across


def classes(
    names: list[str], devices: int, streams: int
) -> dict[frozenset[frozenset[frozenset[str]]], dict[str, Lane]]:
    """One placement of every class: devices as sets of lanes, lanes as sets of stages."""
    lanes = [Lane(device=f"cuda:{device}", stream=stream) for device in range(devices) for stream in range(streams)]
    found = {}
    for choice in itertools.product(lanes, repeat=len(names)):
        placement = dict(zip(names, choice, strict=True))
        grouped: dict[str, dict[int, set[str]]] = {}
        for name, lane in placement.items():
            grouped.setdefault(lane.device, {}).setdefault(lane.stream, set()).add(name)
        key = frozenset(frozenset(frozenset(stages) for stages in lanes.values()) for lanes in grouped.values())
        found[key] = placement
    return found


def count_by_hand(*, devices: int, streams: int) -> int:
    return len(classes([stage.name for stage in DIAMOND], devices, streams))


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Random graphs of up to five stages with random times and sizes; the last stage makes `logits`."""
    tensors = ["image"]
    stages = []
    count = draw(st.integers(1, 5))
    for index in range(count):
        inputs = tuple(draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=2, unique=True)))
        outputs = tuple(f"t{index}.{part}" for part in range(draw(st.integers(1, 2))))
        stages.append(Stage(name=f"s{index}", inputs=inputs, outputs=outputs if index < count - 1 else ("logits",)))
        tensors += outputs
    sizes = {tensor: draw(st.integers(1, 3_000_000)) for tensor in [*tensors, "logits"]}
    return Workload(tuple(stages), {stage.name: draw(st.floats(0.01, 4.0)) for stage in stages}, sizes, batch=2)


@settings(deadline=None, max_examples=60)
@given(
    workloads(),
    st.sampled_from([(1, 1), (2, 1), (3, 1), (1, 3), (2, 2)]),
    st.integers(1, 8),
    st.sampled_from([WIRE, LINKS["pcie3x16"], WIRE.model_copy(update={"host_bandwidth_gb_s": 2.0}).staged()]),
)
def test_the_search_is_exact(workload: Workload, shape: tuple[int, int], top: int, link: Link) -> None:
    devices, streams = shape
    names = [stage.name for stage in workload.stages]
    every = [predict(workload, placement, link) for placement in classes(names, devices, streams).values()]
    expected = sorted(prediction.latency_ms for prediction in every)[:top]
    found = search(workload, link, devices=devices, streams=streams, top=top)
    assert [prediction.latency_ms for prediction in found] == pytest.approx(expected, abs=1e-8)
    assert len({tuple(devices_of(prediction).items()) for prediction in found}) == len(found)
    tied = [prediction for prediction in every if prediction.latency_ms <= expected[0] + 1e-10]
    assert found[0].bytes_across <= min(prediction.bytes_across for prediction in tied)


@settings(deadline=None, max_examples=60)
@given(workloads(), st.floats(0.01, 50), st.floats(1.0, 10))
def test_a_faster_link_or_another_device_is_never_slower(workload: Workload, rate_gb_s: float, factor: float) -> None:
    slow = WIRE.model_copy(update={"bandwidth_gb_s": rate_gb_s, "latency_us": 3.0})
    fast = slow.model_copy(update={"bandwidth_gb_s": rate_gb_s * factor})
    best = [search(workload, slow, devices=count)[0].latency_ms for count in (1, 2, 3)]
    assert best == sorted(best, reverse=True)
    assert search(workload, fast, devices=3)[0].latency_ms <= best[-1] + 1e-9


@settings(deadline=None, max_examples=60)
@given(workloads())
def test_one_lane_is_the_sum_and_free_copies_reach_the_critical_path(workload: Workload) -> None:
    durations = workload.durations_ms
    assert search(workload, FREE, devices=1)[0].latency_ms == pytest.approx(sum(durations.values()), abs=1e-4)
    end_ms: dict[str, float] = {}
    for stage in workload.stages:
        end_ms |= dict.fromkeys(
            stage.outputs, max(end_ms.get(tensor, 0.0) for tensor in stage.inputs) + durations[stage.name]
        )
    spread = search(workload, FREE, devices=5)[0]
    assert spread.latency_ms == pytest.approx(max(end_ms.values()), abs=1e-4)


# Bytes of ParNet-L's float32 tensors that the cuts below send, from the shapes of table A1.
L_BYTES = {
    "image": 4 * 3 * 224 * 224,
    "stream1": 4 * 160 * 56 * 56,
    "stream2": 4 * 320 * 28 * 28,
    "stream3": 4 * 640 * 14 * 14,
    "logits": 4 * 1000,
}
for term in ("fusion2/finer", "fusion2/stream", "fusion3/stream"):
    L_BYTES |= {f"{term}/conv": 4 * 640 * 14 * 14, f"{term}/gate": 4 * 640}


@pytest.mark.parametrize(
    ("partition", "join", "expected"),
    [
        ("streams", 0, 1_003_520 + 501_760),
        ("streams", 1, 2_007_040 + 501_760),
        ("streams", 2, 2_007_040 + 1_003_520),
        # A term is at the resolution behind the Fusion block: half of stream 2's bytes, a quarter of stream 1's.
        ("terms", 0, 2 * (501_760 + 2_560)),
        ("terms", 1, 2 * (501_760 + 2_560)),
        ("terms", 2, 2 * (501_760 + 2_560)),
    ],
)
def test_bytes_across_devices_of_parnet_l(partition: str, join: int, expected: int) -> None:
    stages = PARTITIONS[partition](3)
    workload = Workload(stages, {stage.name: 1.0 for stage in stages}, L_BYTES)
    placement = {"stream1": GPUS[0], "stream2": GPUS[1], "stream3": GPUS[2], "join": GPUS[join]}
    prediction = predict(workload, placement, WIRE)
    assert prediction.bytes_across == expected
    assert prediction.bytes_host == 3 * L_BYTES["image"] + 4_000


def test_the_fine_cut_halves_what_a_stream_sends_to_a_fusion_block_of_half_its_resolution() -> None:
    sent = {}
    for partition in ("streams", "terms"):
        stages = PARTITIONS[partition](2)
        sizes = {"image": 600, "stream1": 8 * 16 * 16, "stream2": 16 * 8 * 8, "logits": 10}
        sizes |= {f"fusion2/{side}/conv": 32 * 4 * 4 for side in ("stream", "finer")}
        sizes |= {f"fusion2/{side}/gate": 32 for side in ("stream", "finer")}
        workload = Workload(stages, {stage.name: 1.0 for stage in stages}, sizes)
        sent[partition] = predict(workload, {"stream1": GPUS[0], "stream2": GPUS[1], "join": GPUS[0]}, WIRE)
    assert sent["streams"].bytes_across == 1024
    assert sent["terms"].bytes_across == 1024 // 2 + 32


def test_throughput_counts_the_samples_of_a_batch() -> None:
    workload = Workload(PARTITIONS["whole"](1), {"whole": 4.0}, {"image": 1, "logits": 1}, batch=8)
    assert search(workload, FREE, devices=1)[0].throughput_per_s == pytest.approx(8 / 4e-3, rel=1e-6)


@pytest.mark.parametrize("wanted", [{"devices": 0}, {"devices": 1, "streams": 0}, {"devices": 1, "top": 0}])
def test_nothing_to_place_on_is_refused(wanted: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        search(diamond(), WIRE, **wanted)


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), None])
def test_a_stage_without_a_time_is_refused(duration: float | None) -> None:
    times = {name: value for name, value in (DIAMOND_MS | {"join": duration}).items() if value is not None}
    with pytest.raises(ValueError, match="'join' needs a positive duration"):
        Workload(DIAMOND, times, DIAMOND_BYTES)
