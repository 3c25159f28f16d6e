"""Merge parallel convolution branches into one 3x3 convolution, as RepVGG does (arXiv 2101.03697, section 3.3).

Pure tensor formulas; weights are `[out, in / groups, k, k]` and biases `[out]`, in any float dtype.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def batchnorm_affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and shift `[C]` in float64 that `norm` applies per channel in eval mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("batch norm without running statistics has no fixed affine form")
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def fold_batchnorm(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold a batch norm into the bias-free convolution before it; return float64 weight and bias."""
    scale, shift = batchnorm_affine(norm)
    return weight.detach().double() * scale[:, None, None, None], shift


def pointwise_as_3x3(weight: Tensor) -> Tensor:
    """Embed a 1x1 kernel in a 3x3 kernel with padding 1: the weight sits at the centre."""
    return F.pad(weight, [1, 1, 1, 1])


def pooled_pointwise_as_3x3(weight: Tensor) -> Tensor:
    """Express AvgPool2d(2, 2) and a 1x1 convolution as one 3x3 kernel of stride 2 and padding 1.

    Output pixel (i, j) averages input rows 2i, 2i+1 and columns 2j, 2j+1; with padding 1 these are kernel rows and
    columns 1 and 2. Exact on even sizes only: on odd ones the pool drops the last row, which the convolution sees.
    """
    return F.pad((weight / 4).expand(-1, -1, 2, 2), [1, 0, 1, 0])
