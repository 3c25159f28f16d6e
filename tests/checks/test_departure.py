"""Which layer departs: exactly the one that was damaged, for every block of every kind, in every artefact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.verification import Comparison, Departure, Extent, LayerDifference
from parnet_deploy.checks.checkpoint_predictor import CheckpointPredictor
from parnet_deploy.checks.compare import compare
from parnet_deploy.checks.departure import describe_extent, find_departure, short
from parnet_deploy.checks.differences import tensor_difference
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.datasets.synthetic import random_images
from parnet_deploy.engines import build_plan
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.planning.layers import network_layers
from tests.checks.conftest import NETWORKS, PREPROCESSING
from tests.checks.damage import (
    Change,
    damage_bundle,
    damage_checkpoint,
    flip_sign,
    in_block,
    poison,
    scale,
    swap_channels,
)

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGES = random_images(PREPROCESSING, 2, seed=3)

Make = Callable[..., Path]


def blocks_of(name: str) -> list[str]:
    """Return every block of a network, once."""
    return list(dict.fromkeys(layer.block for layer in network_layers(NETWORKS[name])))


EVERY_BLOCK = [(name, block) for name in NETWORKS for block in blocks_of(name)]


def compare_layers(a: Path, b: Path, **options: object) -> Comparison:
    with open_predictor(a) as first, open_predictor(b) as second:
        (found,) = compare(first, second, {"random": IMAGES}, detail="layers", **options)
    return found


def departure_of(found: Comparison) -> Departure:
    assert found.departure is not None
    return found.departure


# --- Checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_departs_where_nothing_is_damaged(checkpoint: Make, name: str) -> None:
    found = compare_layers(checkpoint(name, "training"), checkpoint(name, "fused"))
    assert found.departure is None
    assert found.passed
    assert [layer.name for layer in found.layers] == [
        layer.tensor for layer in network_layers(NETWORKS[name]) if "/" not in layer.tensor
    ]
    assert all(0 < layer.size < 5e-6 for layer in found.layers)


@pytest.mark.parametrize(
    ("name", "block", "change"),
    [(name, block, scale) for name, block in EVERY_BLOCK]
    + [("cifar", block, change) for block in blocks_of("cifar") for change in (flip_sign, swap_channels)],
)
def test_damage_in_a_fused_checkpoint_is_named(
    checkpoint: Make, tmp_path: Path, name: str, block: str, change: Change
) -> None:
    damaged = damage_checkpoint(checkpoint(name, "fused"), tmp_path / "d.safetensors", in_block(block, change))
    found = compare_layers(checkpoint(name, "training"), damaged)
    departure = departure_of(found)
    assert departure.blocks == (block,)
    assert departure.others == ()
    assert departure.reason == "beyond the tolerance"
    assert departure.input_size < 5e-6
    assert not found.passed


@pytest.mark.parametrize(("name", "block"), EVERY_BLOCK)
def test_damage_in_the_reference_is_named_too(checkpoint: Make, tmp_path: Path, name: str, block: str) -> None:
    damaged = damage_checkpoint(checkpoint(name, "training"), tmp_path / "d.safetensors", in_block(block, scale))
    departure = departure_of(compare_layers(damaged, checkpoint(name, "fused")))
    assert (departure.blocks, departure.others) == ((block,), ())


def test_the_sentence(checkpoint: Make, tmp_path: Path) -> None:
    damaged = damage_checkpoint(
        checkpoint("three_streams", "fused"), tmp_path / "d.safetensors", in_block("stream2.1", scale)
    )
    found = compare_layers(checkpoint("three_streams", "training"), damaged)
    layer = next(layer for layer in found.layers if layer.name == "stream2")
    assert departure_of(found).sentence == (
        f"stream2 (block stream2.1) is the first to depart: {short(layer.size)} relative, "
        f"its input {short(departure_of(found).input_size)}"
    )


def test_two_faults_are_told_apart_and_what_follows_is_not_named(checkpoint: Make, tmp_path: Path) -> None:
    def both(network: ParNet) -> None:
        in_block("stream1.1", scale)(network)
        in_block("stream3.0", scale)(network)

    damaged = damage_checkpoint(checkpoint("three_streams", "fused"), tmp_path / "d.safetensors", both)
    departure = departure_of(compare_layers(checkpoint("three_streams", "training"), damaged))
    assert (departure.layer, departure.blocks, departure.others) == ("stream1", ("stream1.1",), ("stream3.0",))
    assert departure.sentence.endswith("; on their own depart stream3.0")


def test_an_error_at_the_border_is_located(checkpoint: Make, tmp_path: Path) -> None:
    def spoil(network: ParNet) -> None:
        bias = network.get_parameter("fusion2.join.border_bias")
        # Nothing inside the image, where all nine taps are summed.
        bias[:, 0, 0, 0] += 0.5
        bias[:, 0, 1, 1] -= 0.5

    damaged = damage_checkpoint(checkpoint("three_streams", "fused"), tmp_path / "d.safetensors", spoil)
    found = compare_layers(checkpoint("three_streams", "training"), damaged)
    assert departure_of(found).blocks == ("fusion2",)
    layer = next(layer for layer in found.layers if layer.name == "fusion2")
    assert layer.extent is not None
    assert layer.extent.only_border
    assert "at the border alone, its inputs at most" in departure_of(found).sentence


def test_a_swapped_pair_of_channels_is_located(checkpoint: Make, tmp_path: Path) -> None:
    damaged = damage_checkpoint(
        checkpoint("three_streams", "fused"), tmp_path / "d.safetensors", in_block("stream3.0", swap_channels)
    )
    found = compare_layers(checkpoint("three_streams", "training"), damaged)
    layer = next(layer for layer in found.layers if layer.name == "stream3.0")
    assert layer.cosine is not None
    assert layer.cosine < 0.99
    assert layer.extent is not None
    assert layer.extent.channels == (0, 1)
    assert "in channels 0 and 1 of 16" in departure_of(found).sentence


def test_float64_tells_a_change_of_one_bit(checkpoint: Make, tmp_path: Path) -> None:
    def nudge(network: ParNet) -> None:
        kernel = network.get_parameter("stream2.0.branches.dense.conv.weight")
        kernel[0, 0, 1, 1] = torch.nextafter(kernel[0, 0, 1, 1], torch.tensor(9.0))

    source = checkpoint("three_streams", "training")
    damaged = damage_checkpoint(source, tmp_path / "d.safetensors", nudge)
    a, b = (CheckpointPredictor(path, dtype="float64") for path in (source, damaged))
    (found,) = compare(a, b, {"random": IMAGES}, detail="layers", tolerance=1e-13)
    departure = departure_of(found)
    assert departure.blocks == ("stream2.0",)
    assert departure.input_size == 0
    assert 1e-13 < departure.size < 1e-6


def test_growth_within_the_tolerance_is_said_but_passes(checkpoint: Make, tmp_path: Path) -> None:
    def nudge(network: ParNet) -> None:
        network.get_parameter("stream2.0.conv.weight").mul_(1 + 1e-4)

    damaged = damage_checkpoint(checkpoint("three_streams", "fused"), tmp_path / "d.safetensors", nudge)
    found = compare_layers(checkpoint("three_streams", "training"), damaged)
    departure = departure_of(found)
    assert (departure.blocks, departure.reason) == (("stream2.0",), "grows")
    assert "within the tolerance" in departure.sentence
    assert found.passed


# --- Bundles and plans ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "block", "form", "options"),
    [(name, block, "fused", "whole") for name, block in EVERY_BLOCK]
    + [("three_streams", block, "fused", "terms") for block in blocks_of("three_streams")]
    + [("cifar", block, "training", "whole") for block in blocks_of("cifar")],
)
def test_damage_in_a_bundle_is_named(
    checkpoint: Make, bundle: Make, tmp_path: Path, name: str, block: str, form: str, options: str
) -> None:
    source = bundle(name, form, options)
    stage = stage_with(source, block)
    damaged = damage_bundle(source, tmp_path / "bundle", stage, block, scale)
    departure = departure_of(compare_layers(checkpoint(name, "training"), damaged))
    assert (departure.blocks, departure.others) == ((block,), ())


@pytest.mark.parametrize(("name", "block"), [pair for pair in EVERY_BLOCK if pair[0] in ("three_streams", "cifar")])
def test_damage_in_a_float16_bundle_is_named(
    checkpoint: Make, bundle: Make, tmp_path: Path, name: str, block: str
) -> None:
    source = bundle(name, "fused", "half")
    clean = compare_layers(checkpoint(name, "training"), source)
    assert clean.departure is None
    assert clean.passed
    damaged = damage_bundle(source, tmp_path / "bundle", stage_with(source, block), block, enlarge)
    departure = departure_of(compare_layers(checkpoint(name, "training"), damaged))
    assert (departure.blocks, departure.others) == ((block,), ())


def enlarge(kernel: np.ndarray) -> None:
    """Make every weight larger by half: float16 needs no small faults to be found."""
    kernel *= 1.5


@pytest.mark.parametrize("block", ["stem.1", "stream3.1", "fusion3", "head"])
def test_not_a_number_is_named_where_it_appears(checkpoint: Make, bundle: Make, tmp_path: Path, block: str) -> None:
    source = bundle("three_streams", "fused", "whole")
    damaged = damage_bundle(source, tmp_path / "bundle", "whole", block, poison)
    found = compare_layers(checkpoint("three_streams", "training"), damaged)
    departure = departure_of(found)
    assert (departure.blocks, departure.reason, departure.size) == ((block,), "not finite", float("inf"))
    assert "is the first to depart: not finite" in departure.sentence


@pytest.mark.parametrize("stage", ["stream1", "stream2", "stream3"])
def test_a_damaged_copy_of_the_stem_is_named_with_its_stage(
    checkpoint: Make, bundle: Make, tmp_path: Path, stage: str
) -> None:
    damaged = damage_bundle(bundle("three_streams", "fused", "streams"), tmp_path / "b", stage, "stem.0", scale)
    for a, b in ((checkpoint("three_streams", "training"), damaged), (damaged, checkpoint("three_streams", "fused"))):
        found = compare_layers(a, b)
        departure = departure_of(found)
        assert (departure.layer, departure.others) == ("stem.0", ())
        assert next(layer for layer in found.layers if layer.name == "stem.0").stage == stage
        assert f"stem.0 in stage {stage} is the first to depart" in departure.sentence


@pytest.mark.parametrize(
    ("form", "options", "block"),
    [
        ("fused", "whole", "stream2.0"),
        ("training", "whole", "fusion3"),
        ("fused", "streams", "level2"),
        ("fused", "terms", "fusion2"),
        ("fused", "half", "stream1.0"),
    ],
)
def test_damage_in_a_plan_is_named(
    checkpoint: Make, bundle: Make, tmp_path: Path, form: str, options: str, block: str
) -> None:
    source = bundle("three_streams", form, options)
    damaged = damage_bundle(source, tmp_path / "b", stage_with(source, block), block, enlarge)
    build_plan(damaged, tmp_path / "plan")
    departure = departure_of(compare_layers(checkpoint("three_streams", "training"), tmp_path / "plan"))
    # Which blocks an engine shows one by one depends on the processor that it was optimised for.
    assert block in departure.blocks
    assert departure.others == ()


@pytest.mark.parametrize("name", ["three_streams", "four_streams"])
@pytest.mark.parametrize(("form", "options"), [("training", "whole"), ("fused", "streams"), ("fused", "half")])
def test_an_engine_of_onnx_runtime_tells_most_blocks(
    checkpoint: Make, plan: Make, name: str, form: str, options: str
) -> None:
    found = compare_layers(checkpoint(name, "training"), plan(name, form, options))
    assert found.passed
    assert found.departure is None
    told = {layer.blocks[0] for layer in found.layers if len(layer.blocks) == 1}
    assert len(told) > len(blocks_of(name)) / 2
    assert {block for layer in found.layers for block in layer.blocks} == set(blocks_of(name))


def test_of_an_opaque_engine_only_the_tensors_between_stages_are_told(
    checkpoint: Make, bundle: Make, tmp_path: Path
) -> None:
    # Engines that answer zeros: wrong from the first tensor on that can be seen.
    build_plan(bundle("three_streams", "fused", "streams"), tmp_path / "plan", backend="null")
    found = compare_layers(checkpoint("three_streams", "training"), tmp_path / "plan")
    assert [layer.name for layer in found.layers] == ["stream1", "stream2", "stream3", "logits"]
    departure = departure_of(found)
    assert departure.blocks == ("stem.0", "stem.1", "stream1.0", "stream1.1")
    assert departure.others == ("stream2", "stream3")
    assert departure.sentence.startswith(
        "stream1 (blocks stem.0 to stream1.1) is the first to depart: 1.0e0 relative, its input is the image"
    )


def stage_with(bundle: Path, block: str) -> str:
    """Return the last stage whose graph holds a block; where the stem is repeated, any copy will do."""
    import onnx

    prefix = block.replace(".", "/") + "/"
    holding = [
        path.stem
        for path in sorted(bundle.glob("*.onnx"))
        if any(node.name.startswith(prefix) and node.op_type in ("Conv", "Gemm") for node in onnx.load(path).graph.node)
    ]
    return holding[-1]


# --- The rule itself --------------------------------------------------------------------------------------------------


def layer(name: str, size: float, *inputs: str, tolerance: float | None = 1e-4) -> LayerDifference:
    return LayerDifference(
        name=name,
        max_abs=size,
        relative=size,
        norm=size,
        cosine=1.0,
        tolerance=tolerance,
        passed=tolerance is None or size <= tolerance,
        blocks=(name,),
        inputs=inputs,
        depth=1,
    )


def test_what_follows_a_quiet_fault_is_not_blamed() -> None:
    # `a` jumps within the tolerance, `b` passes it on, and `c` carries it beyond.
    chain = [layer("a", 5e-5, "image"), layer("b", 6e-5, "a"), layer("c", 2e-4, "b"), layer("d", 0.5, "c")]
    found = find_departure(chain, noise=1e-6)
    assert found is not None
    # `d` makes 2500 times what it was given: that is a fault of its own.
    assert (found.layer, found.reason, found.others) == ("a", "grows", ("d",))


def test_slow_growth_is_named_where_it_leaves_the_tolerance() -> None:
    chain = [layer("a", 3e-5, "image"), layer("b", 9e-5, "a"), layer("c", 2e-4, "b"), layer("d", 5e-4, "c")]
    found = find_departure(chain, noise=1e-5)
    assert found is not None
    assert (found.layer, found.reason, found.input, found.input_size) == ("c", "beyond the tolerance", "b", 9e-5)
    assert found.sentence == "c is the first to depart: 2.0e-4 relative, its input 9.0e-5"


def test_a_jump_is_named_before_the_tolerance_is_left() -> None:
    chain = [layer("a", 1e-7, "image"), layer("b", 5e-5, "a"), layer("c", 2e-4, "b")]
    found = find_departure(chain, noise=1e-6)
    assert found is not None
    assert (found.layer, found.reason) == ("b", "grows")


def test_inputs_in_words() -> None:
    for inputs, words in ((("image",), "its input is the image"), (("a",), "its input does not differ")):
        found = find_departure([layer("a", 0.0, "image"), layer("b", 0.5, *inputs)], noise=1e-6)
        assert found is not None
        assert found.sentence == f"b is the first to depart: 5.0e-1 relative, {words}"
    joined = [layer("a", 0.0, "image"), layer("b", 0.0, "image"), layer("c", 0.5, "a", "b")]
    found = find_departure(joined, noise=1e-6)
    assert found is not None
    assert found.sentence.endswith("its inputs do not differ")
    found = find_departure([joined[0], layer("b", 2e-7, "image"), joined[2]], noise=1e-6)
    assert found is not None
    assert found.sentence.endswith("its inputs at most 2.0e-7")


def test_rounding_of_one_layer_is_no_jump() -> None:
    assert find_departure([layer("a", 9e-6, "image"), layer("b", 9e-5, "a")], noise=1e-6) is None
    assert find_departure([layer("a", 1.1e-5, "image")], noise=1e-6) is not None
    assert find_departure([], noise=1e-6) is None


def test_without_a_tolerance_growth_still_tells() -> None:
    chain = [layer("a", 1e-2, "image", tolerance=None), layer("b", 0.5, "a", tolerance=None)]
    found = find_departure(chain, noise=5e-3)
    assert found is not None
    assert (found.layer, found.reason) == ("b", "grows")


@given(st.data())
def test_the_first_departs_after_nothing_that_departs(data: st.DataObject) -> None:
    layers = network_layers(NETWORKS["three_streams"])
    sizes = data.draw(
        st.lists(st.sampled_from([0.0, 1e-7, 5e-6, 2e-5, 1e-3]), min_size=len(layers), max_size=len(layers))
    )
    measured = [layer(entry.tensor, size, *entry.inputs) for entry, size in zip(layers, sizes, strict=True)]
    found = find_departure(measured, noise=1e-6)
    beyond = [entry for entry in measured if not entry.passed]
    if found is None:
        assert not beyond
        return
    by_name = {entry.name: entry for entry in measured}
    before = [entry.name for entry in measured[: measured.index(by_name[found.layer])]]
    assert all(by_name[name].passed for name in before)
    given_to = {entry.name: max(sizes_of(by_name, entry.inputs)) for entry in measured}
    assert found.input_size == given_to[found.layer]
    for entry in beyond:
        # Each fault is an origin, or lies behind one.
        assert entry.name in (found.layer, *found.others) or behind(by_name, entry.name, (found.layer, *found.others))
    for name in found.others:
        is_behind = behind(by_name, name, (found.layer, *found.others))
        assert not is_behind or by_name[name].size > 10 * given_to[name]


def sizes_of(by_name: dict[str, LayerDifference], names: tuple[str, ...]) -> list[float]:
    return [by_name[name].size if name in by_name else 0.0 for name in names]


def behind(by_name: dict[str, LayerDifference], name: str, origins: tuple[str, ...]) -> bool:
    sources = [source for source in by_name[name].inputs if source in by_name]
    return any(source in origins or behind(by_name, source, origins) for source in sources)


@pytest.mark.parametrize(
    ("channels", "count", "images", "only_border", "text"),
    [
        ((3,), 1, (0, 1), False, "in channel 3 of 16"),
        ((3, 9), 2, (0, 1), False, "in channels 3 and 9 of 16"),
        (tuple(range(5)), 5, (0, 1), False, ""),
        (tuple(range(8)), 16, (1,), False, "in image 1"),
        (tuple(range(8)), 16, (0, 1), True, "at the border alone"),
        ((0,), 1, (0,), True, "in channel 0 of 16 in image 0 at the border alone"),
    ],
)
def test_extents_in_words(
    channels: tuple[int, ...], count: int, images: tuple[int, ...], only_border: bool, text: str
) -> None:
    extent = Extent(
        share=0.1,
        images=images,
        image_count=len(images),
        num_images=2,
        channels=channels,
        channel_count=count,
        num_channels=16,
        only_border=only_border,
    )
    assert describe_extent(extent) == text


def test_more_images_and_channels_than_are_named_are_not_taken_for_a_few() -> None:
    everywhere = tensor_difference("t", np.ones((40, 64, 3, 3)), np.full((40, 64, 3, 3), 2.0)).extent
    assert describe_extent(everywhere) == ""
    a, b = np.ones((40, 64, 3, 3)), np.ones((40, 64, 3, 3))
    b[[1, 5, 9], 7:10] = 2
    extent = tensor_difference("t", a, b).extent
    assert describe_extent(extent) == "in channels 7, 8 and 9 of 64 in images 1, 5 and 9"


def test_a_tensor_of_all_but_zeros_does_not_depart() -> None:
    dead = layer("b", 2.0, "a").model_copy(update={"passed": True, "max_abs": 1e-12})
    assert dead.is_negligible
    assert find_departure([layer("a", 1e-7, "image"), dead, layer("c", 2e-6, "b")], noise=1e-6) is None
    # Nor does it hide a fault behind it.
    found = find_departure([layer("a", 1e-7, "image"), dead, layer("c", 0.5, "b")], noise=1e-6)
    assert found is not None
    assert (found.layer, found.input_size) == ("c", 0.0)


def test_short_numbers() -> None:
    assert [short(value) for value in (0.0, 3.14e-2, 4e-7, 1.0, 12.0, float("inf"))] == [
        "0", "3.1e-2", "4.0e-7", "1.0e0", "1.2e1", "inf",
    ]  # fmt: skip
