"""Operations counted at export: by hand, against torch's own counter, and the same in every partition and precision."""

from __future__ import annotations

import math
from pathlib import Path

import onnx_ir as ir
import pytest

from parnet_deploy.artifacts.folders import open_card
from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.errors import ExportError
from parnet_deploy.export import ExportOptions, export_bundle
from parnet_deploy.graphs.operations import count_gflop
from parnet_deploy.models.cost import measure_cost

DYNAMIC = BatchRange(min=1, opt=2, max=4)


def value(name: str, *shape: int | str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def one_node(op: str, weight: ir.Value, made: ir.Value, **attributes: int) -> ir.Model:
    source = value("source", "N", 1)
    node = ir.node(op, [source, weight], attributes, outputs=[made])
    return ir.Model(ir.Graph([source, weight], [made], nodes=[node]), ir_version=8)


@pytest.mark.parametrize(
    ("op", "weight", "made", "attributes", "expected"),
    [
        # 8 filters over 4 channels of 3x3, at 5x7 places.
        ("Conv", (8, 4, 3, 3), ("N", 8, 5, 7), {}, 2 * 8 * 4 * 9 * 35),
        # Two groups: each filter sees half of the channels, as its weight says.
        ("Conv", (8, 2, 3, 3), (2, 8, 5, 7), {"group": 2}, 2 * 8 * 2 * 9 * 35),
        ("Gemm", (10, 20), ("N", 10), {"transB": 1}, 2 * 10 * 20),
        ("Gemm", (20, 10), ("N", 10), {}, 2 * 10 * 20),
        ("MatMul", (20, 10), ("N", 10), {}, 2 * 10 * 20),
        ("Mul", (20, 10), ("N", 10), {}, 0),
    ],
)
def test_operations_by_hand(
    op: str, weight: tuple[int, ...], made: tuple[int | str, ...], attributes: dict[str, int], expected: int
) -> None:
    found = count_gflop(one_node(op, value("weight", *weight), value("made", *made), **attributes))
    assert found * 1e9 == pytest.approx(expected)


def test_unknown_shapes_are_refused() -> None:
    with pytest.raises(ExportError, match="unknown length H"):
        count_gflop(one_node("Conv", value("weight", 8, 4, 3, 3), value("made", "N", 8, "H", 7)))
    with pytest.raises(ExportError, match="no known shapes"):
        count_gflop(one_node("Conv", value("weight", 8, 4, 3, 3), ir.Value(name="made")))


@pytest.mark.parametrize("name", ["one_stream", "three_streams", "four_streams", "cifar"])
def test_export_counts_what_torch_counts(checkpoint_pair, tmp_path: Path, name: str) -> None:
    pair = checkpoint_pair(name)
    card = open_card(pair.fused).manifest
    counted = measure_cost(card.network, card.preprocessing.input_size).gflop_fused
    bundles = {
        partition: export_bundle(pair.fused, tmp_path / partition, ExportOptions(partition=partition, batch=DYNAMIC))
        for partition in ("whole", "terms-shared-stem", "streams")
    }
    totals = {name: sum(stage.gflop or 0.0 for stage in bundle.stages) for name, bundle in bundles.items()}
    # At export a Fusion block's border bias, in torch a 3x3 convolution of one channel of ones, becomes a constant.
    tensors = bundles["terms-shared-stem"].tensors
    biases = [math.prod(spec.shape) for name, spec in tensors.items() if name.endswith("/stream/conv")]
    expected = counted - 2 * 9 * sum(biases) / 1e9
    assert len(biases) == card.network.num_streams - 1
    assert totals["whole"] == pytest.approx(expected, rel=1e-9)
    # Sharing the stem adds nothing; repeated pieces of it are counted wherever they run.
    assert totals["terms-shared-stem"] == pytest.approx(expected, rel=1e-9)
    assert (totals["streams"] > expected * 1.001) == (card.network.num_streams > 1)


def test_half_precision_does_the_same_operations(checkpoint_pair, tmp_path: Path) -> None:
    pair = checkpoint_pair("three_streams")
    counted = {}
    for precision in ("fp32", "fp16"):
        options = ExportOptions(partition="terms", precision=precision, batch=DYNAMIC)
        counted[precision] = [stage.gflop for stage in export_bundle(pair.fused, tmp_path / precision, options).stages]
    assert counted["fp16"] == counted["fp32"]
    assert all(counted["fp32"])
