"""The exact algebra of ParNet's fusion: pure tensor formulas, computed in float64.

An affine input `x -> scale * x + shift` (a batch norm in eval mode) moves into the linear operator behind it. Kernels
are `[out, in / groups, k, k]`, per-channel vectors `[C]`, gate matrices `[out, in / groups, 1, 1]`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scale_input(weight: Tensor, scale: Tensor, groups: int) -> Tensor:
    """Return the kernel that, on `x`, equals `weight` on `scale * x`; `scale` is `[in]` over all groups."""
    out, in_per_group = weight.shape[:2]
    per_output = scale.view(groups, in_per_group).repeat_interleave(out // groups, dim=0)
    return weight * per_output[:, :, None, None]


def shift_response(weight: Tensor, shift: Tensor, groups: int) -> Tensor:
    """Return `[out, 1, k, k]`: what each tap of `weight` adds when its input is the constant `shift` `[in]`.

    A zero-padded convolution sees the shift only inside the image. Convolving this with an image of ones, under the
    same stride and padding, sums the taps that lie inside: the exact bias of every pixel, at the border too.
    """
    return scale_input(weight, shift, groups).sum(dim=1, keepdim=True)


def deinterleave_input(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split a two-group kernel over interleaved inputs a0 b0 a1 b1 .. into the two-group kernels over a and over b.

    Group g sees the g-th half of the interleaved channels, which is the g-th half of a and of b in turn; so each of the
    two is again a two-group convolution, and their sum is the convolution over the interleaved concatenation.
    """
    return weight[:, 0::2].contiguous(), weight[:, 1::2].contiguous()


def split_shuffled_input(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split a two-group kernel over a shuffled input into two-group kernels over the unshuffled halves.

    The shuffle takes p0 p1 .. | q0 q1 .. to p0 q0 p1 q1 .., so group g sees the g-th half of p and of q, interleaved.
    That is `deinterleave_input` with the producer's two halves as the two inputs.
    """
    return deinterleave_input(weight)


def unshuffle_input(weight: Tensor) -> Tensor:
    """Return the dense kernel that, on an unshuffled input, equals dense `weight` on the shuffled input.

    Shuffled channel 2i + h is unshuffled channel h * C / 2 + i.
    """
    return torch.cat(deinterleave_input(weight), dim=1)


def dense_from_grouped(weight: Tensor, groups: int) -> Tensor:
    """Return the dense kernel, zero outside its groups' blocks, that equals a grouped kernel."""
    out, in_per_group = weight.shape[:2]
    dense = weight.new_zeros((out, in_per_group * groups, *weight.shape[2:]))
    rows = out // groups
    for g in range(groups):
        block = slice(g * rows, (g + 1) * rows)
        dense[block, g * in_per_group : (g + 1) * in_per_group] = weight[block]
    return dense
