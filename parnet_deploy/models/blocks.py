"""The blocks of ParNet in training form: figure 2b (RepVGG-SSE) and figure A1 (Downsampling, Fusion).

Every block maps `[N, in, H, W]` to `[N, out, H / stride, W / stride]`. The authors' released code fixes what the
figures leave open: the gate of a block without skip connection is multiplied by two, its 1x1 convolution is grouped as
the others are, and a Fusion block ends with a channel shuffle.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from parnet_deploy.models.reparameterization import fold_batchnorm, pointwise_as_3x3, pooled_pointwise_as_3x3

Activation = Literal["silu", "relu"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU}


def create_activation(name: Activation) -> nn.Module:
    """Return the activation; the paper's is SiLU (section 3.1)."""
    return ACTIVATIONS[name]()


def global_average_pool(x: Tensor) -> Tensor:
    """Average over all pixels: `[N, C, H, W]` to `[N, C, 1, 1]`."""
    return x.mean((2, 3), keepdim=True)


def shuffle_channels(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels: a0 a1 .. b0 b1 .. becomes a0 b0 a1 b1 .."""
    batch, chans, height, width = x.shape
    return x.reshape(batch, 2, chans // 2, height, width).transpose(1, 2).flatten(1, 2)


def unshuffle_channels(x: Tensor) -> Tensor:
    """Undo `shuffle_channels`."""
    return torch.cat((x[:, 0::2], x[:, 1::2]), 1)


def interleave_channels(a: Tensor, b: Tensor) -> Tensor:
    """Concatenate two tensors of equal shape channel by channel: a0 b0 a1 b1 .."""
    return torch.stack((a, b), 2).flatten(1, 2)


class ConvBN(nn.Module):
    """A bias-free convolution and its batch norm."""

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_chans, out_chans, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        return self.bn(self.conv(x))  # type: ignore[no-any-return]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the float64 weight and bias of the single convolution that this is in eval mode."""
        return fold_batchnorm(self.conv.weight, self.bn)


def _biased_conv(like: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    size, stride = like.kernel_size[0], like.stride[0]
    merged = nn.Conv2d(like.in_channels, like.out_channels, size, stride, padding=size // 2, groups=like.groups)
    merged.to(device=like.weight.device, dtype=like.weight.dtype)
    merged.load_state_dict({"weight": weight, "bias": bias})
    return merged.requires_grad_(like.weight.requires_grad).train(like.training)


def _kernel_of(conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    assert conv.bias is not None
    return conv.weight.detach().double(), conv.bias.detach().double()


class ConvBranches(nn.Module):
    """The sum of a 3x3 and a 1x1 convolution, each with batch norm; at stride 2 the 1x1 follows a 2x2 average pool.

    `reparameterize` merges them in place into one biased 3x3 convolution; timm's `reparameterize_model` calls it.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.dense: ConvBN | None = ConvBN(in_chans, out_chans, 3, stride, groups)
        self.pool = nn.AvgPool2d(2, 2) if stride == 2 else nn.Identity()
        self.pointwise: ConvBN | None = ConvBN(in_chans, out_chans, 1, 1, groups)
        self.merged: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Sum the branches."""
        if self.dense is None or self.pointwise is None:
            assert self.merged is not None
            return self.merged(x)  # type: ignore[no-any-return]
        return self.dense(x) + self.pointwise(self.pool(x))  # type: ignore[no-any-return]

    def merged_kernel(self) -> tuple[Tensor, Tensor]:
        """Return the float64 3x3 weight and bias that both branches together are in eval mode."""
        if self.dense is None or self.pointwise is None:
            assert self.merged is not None
            return _kernel_of(self.merged)
        dense_weight, dense_bias = self.dense.folded()
        pointwise_weight, pointwise_bias = self.pointwise.folded()
        embed = pooled_pointwise_as_3x3 if self.stride == 2 else pointwise_as_3x3
        return dense_weight + embed(pointwise_weight), dense_bias + pointwise_bias

    def reparameterize(self) -> None:
        """Replace the branches by the one convolution that equals them in eval mode; a second call does nothing."""
        if self.dense is None:
            return
        self.merged = _biased_conv(self.dense.conv, *self.merged_kernel())
        self.dense = self.pointwise = None
        self.pool = nn.Identity().train(self.training)


class RepVGGSSEBlock(nn.Module):
    """RepVGG-SSE block: convolution branches plus a batch-normed skip gated by its own channel means (figure 2b)."""

    def __init__(self, chans: int, activation: Activation) -> None:
        super().__init__()
        self.branches = ConvBranches(chans, chans)
        self.skip = nn.BatchNorm2d(chans)
        self.gate = nn.Conv2d(chans, chans, 1, bias=False)
        self.act = create_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        skip = self.skip(x)
        gated = skip * torch.sigmoid(self.gate(global_average_pool(skip)))
        return self.act(self.branches(x) + gated)  # type: ignore[no-any-return]


class DownsamplingBlock(nn.Module):
    """Downsampling block: convolution branches times twice a gate from the input's channel means (figure A1, right).

    With stride 1 it is the form that a RepVGG-SSE block takes where the width changes and no skip is possible.
    """

    def __init__(self, in_chans: int, out_chans: int, activation: Activation, stride: int = 2) -> None:
        super().__init__()
        self.branches = ConvBranches(in_chans, out_chans, stride)
        self.gate = nn.Conv2d(in_chans, out_chans, 1, bias=False)
        self.act = create_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        gate = 2 * torch.sigmoid(self.gate(global_average_pool(x)))
        return self.act(self.branches(x) * gate)  # type: ignore[no-any-return]


class FusionBlock(nn.Module):
    """Fusion block: two batch-normed inputs, interleaved, through a two-group Downsampling block, then shuffled.

    `stream` and `finer` are `[N, in, H, W]` each (figure A1, left).
    """

    def __init__(self, in_chans: int, out_chans: int, activation: Activation, stride: int) -> None:
        super().__init__()
        self.norm_stream = nn.BatchNorm2d(in_chans)
        self.norm_finer = nn.BatchNorm2d(in_chans)
        self.branches = ConvBranches(2 * in_chans, out_chans, stride, groups=2)
        self.gate = nn.Conv2d(2 * in_chans, out_chans, 1, groups=2, bias=False)
        self.act = create_activation(activation)

    def forward(self, stream: Tensor, finer: Tensor) -> Tensor:
        """Fuse a stream's output with the fusion of the finer streams."""
        x = interleave_channels(self.norm_stream(stream), self.norm_finer(finer))
        gate = 2 * torch.sigmoid(self.gate(global_average_pool(x)))
        return shuffle_channels(self.act(self.branches(x) * gate))


class PointwiseBlock(nn.Module):
    """A 1x1 convolution, batch norm and activation: the last block of the CIFAR form (section 3.3)."""

    def __init__(self, in_chans: int, out_chans: int, activation: Activation) -> None:
        super().__init__()
        self.conv: ConvBN | nn.Conv2d = ConvBN(in_chans, out_chans, 1)
        self.act = create_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.act(self.conv(x))  # type: ignore[no-any-return]

    def merged_kernel(self) -> tuple[Tensor, Tensor]:
        """Return the float64 1x1 weight and bias that convolution and batch norm are in eval mode."""
        if isinstance(self.conv, ConvBN):
            return self.conv.folded()
        return _kernel_of(self.conv)

    def reparameterize(self) -> None:
        """Fold the batch norm into the convolution in place; a second call does nothing."""
        if isinstance(self.conv, ConvBN):
            self.conv = _biased_conv(self.conv.conv, *self.merged_kernel())


Block = RepVGGSSEBlock | DownsamplingBlock | FusionBlock | PointwiseBlock
