"""The blocks of ParNet in fused form: what remains of each training block once every batch norm is folded.

No batch norm, no concatenation, no shuffle. The factor two of the gates is folded into the convolutions (exact: a power
of two). Weights come from `parnet_deploy.fusion`; constructing a block only sets its shape.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parnet_deploy.models.blocks import Activation, create_activation, global_average_pool


class FusedRepVGGSSEBlock(nn.Module):
    """`act(conv(x) + x * (scale * gate) + shift * gate)` with `gate = sigmoid(W' mean(x) + b')`."""

    def __init__(self, chans: int, activation: Activation) -> None:
        super().__init__()
        self.conv = nn.Conv2d(chans, chans, 3, padding=1)
        self.gate = nn.Conv2d(chans, chans, 1)
        self.scale = nn.Parameter(torch.ones(1, chans, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, chans, 1, 1))
        self.act = create_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        gate = torch.sigmoid(self.gate(global_average_pool(x)))
        return self.act(self.conv(x) + x * (self.scale * gate) + self.shift * gate)  # type: ignore[no-any-return]


class FusedDownsamplingBlock(nn.Module):
    """`act(conv(x) * sigmoid(W mean(x)))`."""

    def __init__(self, in_chans: int, out_chans: int, activation: Activation, stride: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, 3, stride, padding=1)
        self.gate = nn.Conv2d(in_chans, out_chans, 1, bias=False)
        self.act = create_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.act(self.conv(x) * torch.sigmoid(self.gate(global_average_pool(x))))  # type: ignore[no-any-return]


class FusionTerm(nn.Module):
    """What one input adds to a Fusion block: `[N, out, H', W']` to its convolution, `[N, out, 1, 1]` to its gate.

    `split` is for an input whose producer left its channels unshuffled. The shuffle spreads each half of the producer's
    channels over both groups, so each half meets a two-group convolution of its own, and their sum is the convolution
    over the shuffled channels.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int, *, split: bool) -> None:
        super().__init__()
        halves = 2 if split else 1
        self.convs = nn.ModuleList(
            nn.Conv2d(in_chans // halves, out_chans, 3, stride, padding=1, groups=2, bias=False) for _ in range(halves)
        )
        # Over a shuffled input the gate's two groups become one dense matrix with zeros: it is small, a split is not.
        self.gate = nn.Conv2d(in_chans, out_chans, 1, groups=1 if split else 2, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the convolution term and the gate term."""
        gate = self.gate(global_average_pool(x))
        halves = x.chunk(len(self.convs), dim=1) if len(self.convs) > 1 else (x,)
        return sum(conv(half) for conv, half in zip(self.convs, halves, strict=True)), gate


class FusionJoin(nn.Module):
    """Sum the terms of both inputs and a bias that differs at the border, gate and activate.

    `border_bias` is `[out, 1, 3, 3]`: what each kernel tap adds where it lies inside the image. Summed over the taps
    inside, it is the per-pixel bias that the inputs' batch norm shifts leave behind a zero-padded convolution.
    """

    def __init__(self, out_chans: int, activation: Activation, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bias = nn.Parameter(torch.zeros(1, out_chans, 1, 1))
        self.border_bias = nn.Parameter(torch.zeros(out_chans, 1, 3, 3))
        self.gate_bias = nn.Parameter(torch.zeros(1, out_chans, 1, 1))
        self.act = create_activation(activation)

    def bias_map(self, size: tuple[int, int]) -> Tensor:
        """Return the per-pixel bias `[1, out, H / stride, W / stride]` for inputs of `size` (H, W)."""
        inside = self.border_bias.new_ones((1, 1, *size))
        return F.conv2d(inside, self.border_bias, stride=self.stride, padding=1) + self.bias

    def forward(self, size: tuple[int, int], stream: tuple[Tensor, Tensor], finer: tuple[Tensor, Tensor]) -> Tensor:
        """Join the terms of inputs of `size` (H, W)."""
        gate = torch.sigmoid(stream[1] + finer[1] + self.gate_bias)
        return self.act((stream[0] + finer[0] + self.bias_map(size)) * gate)  # type: ignore[no-any-return]


class FusedFusionBlock(nn.Module):
    """One term per input, joined. The output's channels are not shuffled; the consumer absorbs that."""

    def __init__(self, in_chans: int, out_chans: int, activation: Activation, stride: int, *, split: bool) -> None:
        super().__init__()
        self.stream = FusionTerm(in_chans, out_chans, stride, split=False)
        self.finer = FusionTerm(in_chans, out_chans, stride, split=split)
        self.join = FusionJoin(out_chans, activation, stride)

    def forward(self, stream: Tensor, finer: Tensor) -> Tensor:
        """Fuse a stream's output with the fusion of the finer streams."""
        size = (stream.shape[2], stream.shape[3])
        return self.join(size, self.stream(stream), self.finer(finer))  # type: ignore[no-any-return]


class FusedPointwiseBlock(nn.Module):
    """A biased 1x1 convolution and activation."""

    def __init__(self, in_chans: int, out_chans: int, activation: Activation) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, 1)
        self.act = create_activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return self.act(self.conv(x))  # type: ignore[no-any-return]
