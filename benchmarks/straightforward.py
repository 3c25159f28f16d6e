"""ParNet as a user would write it from the paper: plain modules, the concatenation and the shuffles where they are.

It shares no code with `parnet_deploy`. `load` brings the weights of one of our networks in training form, so that both
compute the same function; `tests/benchmarks/test_straightforward.py` holds them together. `fuse` merges the 3x3 and 1x1
convolutions of each block, as the paper (section 3.1) and the authors' release do, and leaves everything else.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Our names, and what stands for them here.
_RENAMED = {
    ".branches.dense.conv.": ".conv3x3.conv.",
    ".branches.dense.bn.": ".conv3x3.norm.",
    ".branches.pointwise.conv.": ".conv1x1.conv.",
    ".branches.pointwise.bn.": ".conv1x1.norm.",
    ".gate.": ".excite.",
    ".skip.": ".norm.",
    ".norm_stream.": ".norm_a.",
    ".norm_finer.": ".norm_b.",
    "fusion1.": "down1.",
    "head.fc.": "classifier.",
}


class ConvNorm(nn.Module):
    """A convolution with batch norm."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        return self.norm(self.conv(x))  # type: ignore[no-any-return]

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return the weight and bias of one convolution that does both."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
        return self.conv.weight * scale.view(-1, 1, 1, 1), self.norm.bias - self.norm.running_mean * scale


def shuffle(x: Tensor) -> Tensor:
    """Shuffle the channels of two groups (ShuffleNet)."""
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def squeeze(x: Tensor) -> Tensor:
    """Average over the pixels."""
    return F.adaptive_avg_pool2d(x, 1)


class _Branches(nn.Module):
    """The 3x3 and 1x1 convolutions that the blocks have in common."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv3x3: ConvNorm | nn.Conv2d = ConvNorm(inputs, outputs, 3, stride, groups)
        self.conv1x1: ConvNorm | None = ConvNorm(inputs, outputs, 1, 1, groups)
        self.excite = nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False)

    def convolve(self, x: Tensor) -> Tensor:
        """Sum the branches; at stride 2 the 1x1 convolution reads 2x2 averages."""
        if self.conv1x1 is None:
            return self.conv3x3(x)  # type: ignore[no-any-return]
        small = F.avg_pool2d(x, 2) if self.stride == 2 else x
        return self.conv3x3(x) + self.conv1x1(small)  # type: ignore[no-any-return]

    @torch.no_grad()
    def merge(self) -> None:
        """Merge the branches into one 3x3 convolution."""
        assert isinstance(self.conv3x3, ConvNorm)
        assert self.conv1x1 is not None
        weight3, bias3 = self.conv3x3.folded()
        weight1, bias1 = self.conv1x1.folded()
        if self.stride == 2:
            weight1 = F.pad(weight1.expand(-1, -1, 2, 2) / 4, (1, 0, 1, 0))
        else:
            weight1 = F.pad(weight1, (1, 1, 1, 1))
        old = self.conv3x3.conv
        merged = nn.Conv2d(old.in_channels, old.out_channels, 3, self.stride, 1, groups=old.groups)
        merged.to(old.weight.dtype).load_state_dict({"weight": weight3 + weight1, "bias": bias3 + bias1})
        self.conv3x3, self.conv1x1 = merged, None


class RepVGGSSE(_Branches):
    """RepVGG-SSE block (figure 2b)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 1, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        skip = self.norm(x)
        skip = skip * torch.sigmoid(self.excite(squeeze(skip)))
        return F.silu(self.convolve(x) + skip)


class Downsampling(_Branches):
    """Downsampling block (figure A1), or with two groups and stride 1 or 2 what follows the concatenation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 2, groups: int = 1) -> None:
        super().__init__(inputs, outputs, stride, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block."""
        return F.silu(self.convolve(x) * 2 * torch.sigmoid(self.excite(squeeze(x))))


class Fusion(Downsampling):
    """Fusion block (figure A1): two inputs concatenated and shuffled, a block of two groups, a shuffle."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(2 * inputs, outputs, stride, groups=2)
        self.norm_a = nn.BatchNorm2d(inputs)
        self.norm_b = nn.BatchNorm2d(inputs)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:  # type: ignore[override]
        """Fuse two tensors of one shape."""
        return shuffle(super().forward(shuffle(torch.cat((self.norm_a(a), self.norm_b(b)), 1))))


class StraightforwardParNet(nn.Module):
    """ParNet of three streams for ImageNet (table A1)."""

    def __init__(
        self,
        planes: tuple[int, int, int],
        blocks: tuple[int, int, int],
        last: int,
        *,
        stem: int = 64,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        one, two, three = planes
        self.stem = nn.Sequential(Downsampling(3, stem), Downsampling(stem, one))
        self.level2, self.level3 = Downsampling(one, two), Downsampling(two, three)
        self.stream1, self.stream2, self.stream3 = (
            nn.Sequential(*(RepVGGSSE(width) for _ in range(count)))
            for width, count in zip(planes, blocks, strict=True)
        )
        self.down1 = Downsampling(one, two)
        self.fusion2 = Fusion(two, three, stride=2)
        self.fusion3 = Fusion(three, three, stride=1)
        self.last = Downsampling(three, last)
        self.classifier = nn.Linear(last, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits for images [N, 3, H, W]."""
        level1 = self.stem(image)
        level2 = self.level2(level1)
        level3 = self.level3(level2)
        joined = self.down1(self.stream1(level1))
        joined = self.fusion2(self.stream2(level2), joined)
        joined = self.fusion3(self.stream3(level3), joined)
        return self.classifier(squeeze(self.last(joined)).flatten(1))  # type: ignore[no-any-return]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of one of our networks in training form."""
        renamed = {}
        for name, tensor in weights.items():
            for ours, here in _RENAMED.items():
                name = name.replace(ours, here)
            renamed[name] = tensor
        self.load_state_dict(renamed)

    def fuse(self) -> None:
        """Merge the convolution branches of every block."""
        for module in self.modules():
            if isinstance(module, _Branches):
                module.merge()
