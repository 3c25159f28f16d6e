"""One rule per block type: a training block in, the fused block that equals it in eval mode out.

Rules take the block and whether its (finer) input comes unshuffled, since a fused Fusion block leaves its output's
channels unshuffled and its consumer absorbs the permutation. Everything is computed in float64 and cast once, at the
end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from parnet_deploy.errors import FusionError
from parnet_deploy.fusion import algebra
from parnet_deploy.models import blocks, fused
from parnet_deploy.models.blocks import Activation
from parnet_deploy.models.reparameterization import batchnorm_affine

# A rule takes the block type that it stands for in `RULES`.
Rule = Callable[[Any, bool], nn.Module]


def _set(parameter: Tensor | None, value: Tensor) -> None:
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


def _activation_of(block: blocks.Block) -> Activation:
    for name, kind in blocks.ACTIVATIONS.items():
        if type(block.act) is kind:
            return name
    raise FusionError(f"no rule for a block with the activation {type(block.act).__name__}", remedy="use silu or relu")


def _gate_weight(block: blocks.RepVGGSSEBlock | blocks.DownsamplingBlock | blocks.FusionBlock) -> Tensor:
    return block.gate.weight.detach().double()


def fuse_repvgg_sse(block: blocks.RepVGGSSEBlock, _unshuffled: bool) -> fused.FusedRepVGGSSEBlock:
    """Merge the branches; fold the skip's batch norm into the gate, a scale and a shift (FusedRepVGGSSEBlock)."""
    weight, bias = block.branches.merged_kernel()
    scale, shift = batchnorm_affine(block.skip)
    gate = _gate_weight(block)
    made = fused.FusedRepVGGSSEBlock(len(scale), _activation_of(block))
    made.to(device=gate.device, dtype=block.gate.weight.dtype)
    _set(made.conv.weight, weight)
    _set(made.conv.bias, bias)
    _set(made.gate.weight, algebra.scale_input(gate, scale, groups=1))
    _set(made.gate.bias, algebra.shift_response(gate, shift, groups=1))
    _set(made.scale, scale)
    _set(made.shift, shift)
    return made


def fuse_downsampling(block: blocks.DownsamplingBlock, unshuffled: bool) -> fused.FusedDownsamplingBlock:
    """Merge the branches, fold the gate's factor two into them and absorb the producer's shuffle."""
    weight, bias = block.branches.merged_kernel()
    gate = _gate_weight(block)
    if unshuffled:
        weight, gate = algebra.unshuffle_input(weight), algebra.unshuffle_input(gate)
    out, in_chans = gate.shape[:2]
    made = fused.FusedDownsamplingBlock(in_chans, out, _activation_of(block), block.branches.stride)
    made.to(device=gate.device, dtype=block.gate.weight.dtype)
    _set(made.conv.weight, 2 * weight)
    _set(made.conv.bias, 2 * bias)
    _set(made.gate.weight, gate)
    return made


def fuse_fusion(block: blocks.FusionBlock, unshuffled: bool) -> fused.FusedFusionBlock:
    """Turn the interleaved concatenation into a sum of two terms and fold both inputs' batch norms into them."""
    weight, bias = block.branches.merged_kernel()
    kernels = algebra.deinterleave_input(2 * weight)
    gates = algebra.deinterleave_input(_gate_weight(block))
    norms = (batchnorm_affine(block.norm_stream), batchnorm_affine(block.norm_finer))
    in_chans, out = len(norms[0][0]), len(weight)
    made = fused.FusedFusionBlock(in_chans, out, _activation_of(block), block.branches.stride, split=unshuffled)
    made.to(device=weight.device, dtype=block.gate.weight.dtype)
    border_bias, gate_bias = weight.new_zeros(out, 1, 3, 3), weight.new_zeros(out, 1, 1, 1)
    for term, kernel, gate, (scale, shift) in zip((made.stream, made.finer), kernels, gates, norms, strict=True):
        border_bias += algebra.shift_response(kernel, shift, groups=2)
        gate_bias += algebra.shift_response(gate, shift, groups=2)
        _set_term(term, algebra.scale_input(kernel, scale, groups=2), algebra.scale_input(gate, scale, groups=2))
    _set(made.join.border_bias, border_bias)
    _set(made.join.bias, 2 * bias)
    _set(made.join.gate_bias, gate_bias)
    return made


def _set_term(term: fused.FusionTerm, kernel: Tensor, gate: Tensor) -> None:
    if len(term.convs) == 2:
        kernels: tuple[Tensor, ...] = algebra.split_shuffled_input(kernel)
        gate = algebra.unshuffle_input(algebra.dense_from_grouped(gate, groups=2))
    else:
        kernels = (kernel,)
    for conv, weight in zip(term.convs, kernels, strict=True):
        _set(conv.get_parameter("weight"), weight)
    _set(term.gate.weight, gate)


def fuse_pointwise(block: blocks.PointwiseBlock, unshuffled: bool) -> fused.FusedPointwiseBlock:
    """Fold the batch norm into the 1x1 convolution and absorb the producer's shuffle."""
    weight, bias = block.merged_kernel()
    if unshuffled:
        weight = algebra.unshuffle_input(weight)
    out, in_chans = weight.shape[:2]
    made = fused.FusedPointwiseBlock(in_chans, out, _activation_of(block))
    made.to(device=weight.device, dtype=next(block.parameters()).dtype)
    _set(made.conv.weight, weight)
    _set(made.conv.bias, bias)
    return made


RULES: dict[type[nn.Module], Rule] = {
    blocks.RepVGGSSEBlock: fuse_repvgg_sse,
    blocks.DownsamplingBlock: fuse_downsampling,
    blocks.FusionBlock: fuse_fusion,
    blocks.PointwiseBlock: fuse_pointwise,
}
