"""The equivalence check can fail: a small slip in any rule or formula is caught, at the tensor where it happens.

Each slip below is seeded alone into the fusion of a small network with rough weights. The check must find it in float64
and in float32, and must name the first tensor that is wrong: the ones before it are right to rounding.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.errors import CheckFailedError
from parnet_deploy.fusion import algebra, fusion_difference, rules
from parnet_deploy.fusion.difference import FLOAT32_TOLERANCE, FLOAT64_TOLERANCE
from parnet_deploy.models import blocks, fused, reparameterization
from parnet_deploy.models.parnet import ParNet

# Every kind of block: Downsampling and RepVGG-SSE, Fusion at stride 2 and 1, with a shuffled and an unshuffled input.
IMAGENET_LIKE = NetworkConfig(
    stem=(6, 8), planes=(8, 12, 16), num_blocks=(1, 1, 1), last_planes=10, num_classes=5, activation="silu"
)
# The 1x1 convolution at the end, and stems of either block at stride 1.
CIFAR_LIKE = NetworkConfig(
    stem=(8, 8), stem_stride=1, planes=(8, 12), num_blocks=(1, 1), last_planes=10, last="conv1x1", num_classes=5
)

Change = Callable[[pytest.MonkeyPatch], None]
# The package's attribute of this name is the function.
fuse_module = importlib.import_module("parnet_deploy.fusion.fuse")


@dataclass(frozen=True)
class Slip:
    """One wrong step: which formula it is in, how it is seeded, and the first tensor that it spoils."""

    name: str
    formula: str
    seed: Change
    spoils: str
    network: NetworkConfig = IMAGENET_LIKE


def replacing(owner: Any, name: str, wrong: Callable[..., Any]) -> Change:
    """Replace a formula by `wrong`, which gets the right one as its first argument."""
    right = getattr(owner, name)
    return lambda patch: patch.setattr(owner, name, lambda *args, **kwargs: wrong(right, *args, **kwargs))


def spoiling(kind: type[nn.Module], spoil: Callable[[Any], Any]) -> Change:
    """Let the rule of a block type do its work, then change what it made."""
    right = rules.RULES[kind]

    def wrong(block: Any, unshuffled: bool) -> nn.Module:
        made = right(block, unshuffled)
        with torch.no_grad():
            spoil(made)
        return made

    return lambda patch: patch.setitem(rules.RULES, kind, wrong)


def without_eps(_right: Any, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Forget eps under the square root."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / norm.running_var.double().sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def without_mean(right: Any, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Forget the running mean."""
    return right(norm)[0], norm.bias.double()


def of_other_group(right: Any, weight: Tensor, vector: Tensor, groups: int) -> Tensor:
    """Give each group the scales or shifts of the next one."""
    return right(weight, vector.view(groups, -1).roll(1, 0).flatten(), groups)


def unscaled(_right: Any, weight: Tensor, _scale: Tensor, groups: int) -> Tensor:  # noqa: ARG001 (passed by name)
    """Leave the kernel as it is."""
    return weight


def one_branch(block: blocks.ConvBranches, name: str) -> tuple[Tensor, Tensor]:
    """Return the merged kernel with the 1x1 branch dropped, its weight or its bias alone."""
    weight, bias = right_merged_kernel(block)
    assert block.dense is not None
    dense_weight, dense_bias = block.dense.folded()
    return {"both": (dense_weight, dense_bias), "weight": (dense_weight, bias), "bias": (weight, dense_bias)}[name]


right_merged_kernel = blocks.ConvBranches.merged_kernel


def interior_bias(join: fused.FusionJoin, size: tuple[int, int]) -> Tensor:
    """Use the interior's bias at every pixel, as if padding came before the batch norms."""
    interior = join.border_bias.sum((2, 3)).view(1, -1, 1, 1) + join.bias
    return interior.expand(-1, -1, size[0] // join.stride, size[1] // join.stride)


def dense_off(right: Any, weight: Tensor, groups: int) -> Tensor:
    """Place each group's block beside the one where it belongs."""
    return right(weight, groups).roll(weight.shape[1], 1)


def reading_shuffled(name: str) -> Change:
    """Forget that a block reads what a Fusion block left unshuffled."""
    right = fuse_module._reads_unshuffled
    return lambda patch: patch.setattr(
        fuse_module, "_reads_unshuffled", lambda model, reader: reader != name and right(model, reader)
    )


REPVGG, DOWN, FUSION, POINTWISE = rules.RULES

SLIPS = (
    # Convolution and batch norm, and the merging of branches (models/reparameterization, ConvBranches).
    Slip("eps ignored in a convolution's norm", "batchnorm_affine",
         replacing(reparameterization, "batchnorm_affine", without_eps), "stem"),
    Slip("mean ignored in a convolution's norm", "batchnorm_affine",
         replacing(reparameterization, "batchnorm_affine", without_mean), "stem"),
    Slip("norm's scale not folded into the weight", "fold_batchnorm",
         replacing(blocks, "fold_batchnorm", lambda right, w, norm: (w.double(), right(w, norm)[1])), "stem"),
    Slip("norm's shift not folded into the bias", "fold_batchnorm",
         replacing(blocks, "fold_batchnorm", lambda right, w, norm: (right(w, norm)[0], norm.bias.double() * 0)),
         "stem"),
    Slip("1x1 kernel off the centre", "pointwise_as_3x3",
         replacing(blocks, "pointwise_as_3x3", lambda right, w: right(w).roll(1, 3)), "stream1"),
    Slip("pooled kernel at the upper left taps", "pooled_pointwise_as_3x3",
         replacing(blocks, "pooled_pointwise_as_3x3", lambda right, w: right(w).roll((-1, -1), (2, 3))), "stem"),
    Slip("pool sums instead of averaging", "pooled_pointwise_as_3x3",
         replacing(blocks, "pooled_pointwise_as_3x3", lambda right, w: 4 * right(w)), "stem"),
    Slip("1x1 branch dropped", "merged_kernel",
         lambda patch: patch.setattr(blocks.ConvBranches, "merged_kernel", lambda b: one_branch(b, "both")), "stem"),
    Slip("1x1 branch's weight dropped", "merged_kernel",
         lambda patch: patch.setattr(blocks.ConvBranches, "merged_kernel", lambda b: one_branch(b, "weight")), "stem"),
    Slip("1x1 branch's bias dropped", "merged_kernel",
         lambda patch: patch.setattr(blocks.ConvBranches, "merged_kernel", lambda b: one_branch(b, "bias")), "stem"),
    # RepVGG-SSE.
    Slip("eps ignored in the norms of skips", "batchnorm_affine",
         replacing(rules, "batchnorm_affine", without_eps), "stream1"),
    Slip("skip's scale dropped", "fuse_repvgg_sse", spoiling(REPVGG, lambda made: made.scale.fill_(1)), "stream1"),
    Slip("skip's shift dropped", "fuse_repvgg_sse", spoiling(REPVGG, lambda made: made.shift.zero_()), "stream1"),
    Slip("skip's gate bias dropped", "fuse_repvgg_sse",
         spoiling(REPVGG, lambda made: made.gate.bias.zero_()), "stream1"),
    Slip("skip dropped", "fuse_repvgg_sse",
         spoiling(REPVGG, lambda made: (made.scale.zero_(), made.shift.zero_())), "stream1"),
    Slip("convolution's bias dropped", "fuse_repvgg_sse",
         spoiling(REPVGG, lambda made: made.conv.bias.zero_()), "stream1"),
    Slip("norm's scale not folded into the gate", "scale_input",
         replacing(algebra, "scale_input", unscaled), "stream1"),
    Slip("shift's response halved", "shift_response",
         replacing(algebra, "shift_response", lambda right, w, shift, groups: right(w, shift, groups) / 2), "stream1"),
    # Downsampling.
    Slip("factor 2 missing on the weight", "fuse_downsampling",
         spoiling(DOWN, lambda made: made.conv.weight.div_(2)), "stem"),
    Slip("factor 2 missing on the bias", "fuse_downsampling",
         spoiling(DOWN, lambda made: made.conv.bias.div_(2)), "stem"),
    Slip("gate dropped", "fuse_downsampling", spoiling(DOWN, lambda made: made.gate.weight.zero_()), "stem"),
    Slip("SiLU taken for ReLU", "_activation_of", replacing(rules, "_activation_of", lambda *_: "relu"), "stem"),
    # Fusion.
    Slip("border bias dropped", "fuse_fusion",
         spoiling(FUSION, lambda made: made.join.border_bias.zero_()), "fusion2"),
    Slip("plain bias instead of the border's map", "bias_map",
         lambda patch: patch.setattr(fused.FusionJoin, "bias_map", interior_bias), "fusion2"),
    Slip("border map mirrored", "fuse_fusion",
         spoiling(FUSION, lambda made: made.join.border_bias.copy_(made.join.border_bias.flip(2))), "fusion2"),
    Slip("gate bias dropped", "fuse_fusion", spoiling(FUSION, lambda made: made.join.gate_bias.zero_()), "fusion2"),
    Slip("factor 2 missing on the bias", "fuse_fusion",
         spoiling(FUSION, lambda made: made.join.bias.div_(2)), "fusion2"),
    Slip("finer term dropped", "fuse_fusion",
         spoiling(FUSION, lambda made: [conv.weight.zero_() for conv in made.finer.convs]), "fusion2"),
    Slip("finer gate term dropped", "fuse_fusion",
         spoiling(FUSION, lambda made: made.finer.gate.weight.zero_()), "fusion2"),
    Slip("inputs swapped", "deinterleave_input",
         replacing(algebra, "deinterleave_input", lambda right, weight: right(weight)[::-1]), "fusion2"),
    Slip("inputs stacked, not interleaved", "deinterleave_input",
         replacing(algebra, "deinterleave_input", lambda _right, weight: weight.chunk(2, 1)), "fusion2"),
    Slip("scales of the wrong groups", "scale_input", replacing(algebra, "scale_input", of_other_group), "fusion2"),
    Slip("shifts of the wrong groups", "shift_response",
         replacing(algebra, "shift_response", of_other_group), "fusion2"),
    Slip("halves swapped", "split_shuffled_input",
         replacing(algebra, "split_shuffled_input", lambda right, weight: right(weight)[::-1]), "fusion3"),
    Slip("dense gate's groups off", "dense_from_grouped",
         replacing(algebra, "dense_from_grouped", dense_off), "fusion3"),
    Slip("unshuffling missing", "unshuffle_input",
         replacing(algebra, "unshuffle_input", lambda _right, weight: weight), "fusion3"),
    Slip("unshuffled the other way", "unshuffle_input",
         replacing(algebra, "unshuffle_input", lambda _right, weight: torch.stack(weight.chunk(2, 1), 2).flatten(1, 2)),
         "fusion3"),
    Slip("shuffle absorbed by no one after the last Fusion", "_reads_unshuffled", reading_shuffled("last"), "last"),
    # The CIFAR form.
    Slip("last convolution's bias dropped", "fuse_pointwise",
         spoiling(POINTWISE, lambda made: made.conv.bias.zero_()), "last", CIFAR_LIKE),
    Slip("last convolution reads shuffled", "fuse_pointwise", reading_shuffled("last"), "last", CIFAR_LIKE),
    Slip("border bias dropped without a stride", "fuse_fusion",
         spoiling(FUSION, lambda made: made.join.border_bias.zero_()), "fusion2", CIFAR_LIKE),
    Slip("stem's skip shift dropped", "fuse_repvgg_sse",
         spoiling(REPVGG, lambda made: made.shift.zero_()), "stem", CIFAR_LIKE),
)  # fmt: skip


@pytest.fixture(scope="module")
def rough(create_rough_network: Callable[..., ParNet]) -> Callable[[NetworkConfig], ParNet]:
    """A function that returns the network that slips are seeded into."""
    made = {id(cfg): create_rough_network(cfg, seed=5) for cfg in (IMAGENET_LIKE, CIFAR_LIKE)}
    return lambda cfg: made[id(cfg)]


@pytest.mark.parametrize("cfg", [IMAGENET_LIKE, CIFAR_LIKE], ids=["imagenet-like", "cifar-like"])
def test_without_a_slip_the_check_passes(cfg: NetworkConfig, rough: Callable[[NetworkConfig], ParNet]) -> None:
    difference = fusion_difference(rough(cfg))
    difference.check()
    assert difference.float64.relative <= FLOAT64_TOLERANCE
    assert difference.float32.relative <= FLOAT32_TOLERANCE


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: f"{slip.formula}: {slip.name}")
def test_slip_is_caught_where_it_happens(
    slip: Slip, rough: Callable[[NetworkConfig], ParNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    slip.seed(monkeypatch)
    difference = fusion_difference(rough(slip.network))
    assert difference.float64.relative > FLOAT64_TOLERANCE
    assert difference.float32.relative > FLOAT32_TOLERANCE
    assert difference.float64.first_beyond(FLOAT64_TOLERANCE) == slip.spoils
    assert difference.float32.first_beyond(FLOAT32_TOLERANCE) == slip.spoils
    with pytest.raises(CheckFailedError, match=rf"{slip.spoils} differs by .* relative in float64, beyond 1e-12"):
        difference.check()


def test_every_rule_and_every_formula_has_a_slip() -> None:
    formulas = {
        name
        for module in (algebra, reparameterization)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    formulas |= {rule.__name__ for rule in rules.RULES.values()}
    assert formulas <= {slip.formula for slip in SLIPS}
    assert len(SLIPS) >= 14
