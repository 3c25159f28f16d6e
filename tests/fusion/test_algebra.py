"""Each formula of the fusion against the operators that it replaces: any shape, stride and group count, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from parnet_deploy.fusion import algebra
from parnet_deploy.models import reparameterization
from parnet_deploy.models.blocks import interleave_channels, shuffle_channels

AssertSame = Callable[[Tensor, Tensor], None]
some_examples = settings(max_examples=40)


@dataclass(frozen=True)
class Case:
    """A random convolution and its input; `kernel` is 3 with padding 1, or 1."""

    seed: int
    groups: int
    in_per_group: int
    out_per_group: int
    height: int
    width: int
    stride: int
    kernel: int

    def random(self, *shape: int) -> Tensor:
        """Draw numbers; the shape decides them along with the seed."""
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed + len(shape)), dtype=torch.float64)

    @property
    def in_chans(self) -> int:
        """Input channels over all groups."""
        return self.groups * self.in_per_group

    def image(self, channels: int | None = None) -> Tensor:
        """A batch of two inputs."""
        return self.random(2, channels or self.in_chans, self.height, self.width)

    def weight(self) -> Tensor:
        """A grouped kernel."""
        flat = torch.randn(
            self.groups * self.out_per_group,
            self.in_per_group,
            self.kernel**2,
            generator=torch.Generator().manual_seed(self.seed),
            dtype=torch.float64,
        )
        return flat.reshape(*flat.shape[:2], self.kernel, self.kernel)

    def convolve(self, x: Tensor, weight: Tensor, groups: int | None = None) -> Tensor:
        """Convolve with this case's stride and zero padding."""
        return F.conv2d(x, weight, stride=self.stride, padding=self.kernel // 2, groups=groups or self.groups)


def cases(groups: tuple[int, ...] = (1, 2, 3, 4), *, even: bool = False) -> st.SearchStrategy[Case]:
    """Random convolutions; with `even`, of group widths that split in two."""
    width = st.integers(1, 4).map(lambda n: 2 * n if even else n)
    return st.builds(
        Case,
        seed=st.integers(0, 2**31),
        groups=st.sampled_from(groups),
        in_per_group=width,
        out_per_group=st.integers(1, 4),
        height=st.integers(1, 9),
        width=st.integers(1, 9),
        stride=st.sampled_from([1, 2]),
        kernel=st.sampled_from([1, 3]),
    )


@some_examples
@given(case=cases())
def test_scale_input(case: Case, assert_same: AssertSame) -> None:
    x, weight, scale = case.image(), case.weight(), case.random(case.in_chans)
    expected = case.convolve(x * scale[:, None, None], weight)
    assert_same(expected, case.convolve(x, algebra.scale_input(weight, scale, case.groups)))


@some_examples
@given(case=cases())
def test_shift_response_is_exact_at_the_border(case: Case, assert_same: AssertSame) -> None:
    """Zero padding comes after the shift: a border pixel must not see the shift where its taps lie outside."""
    x, weight, shift = case.image(), case.weight(), case.random(case.in_chans)
    expected = case.convolve(x + shift[:, None, None], weight)
    ones = torch.ones(1, 1, case.height, case.width, dtype=torch.float64)
    bias_map = case.convolve(ones, algebra.shift_response(weight, shift, case.groups), groups=1)
    assert_same(expected, case.convolve(x, weight) + bias_map)


@some_examples
@given(case=cases(groups=(2,), even=True))
def test_deinterleave_input(case: Case, assert_same: AssertSame) -> None:
    a, b = case.image().chunk(2, dim=1)
    of_a, of_b = algebra.deinterleave_input(case.weight())
    expected = case.convolve(interleave_channels(a, b), case.weight())
    assert_same(expected, case.convolve(a, of_a) + case.convolve(b, of_b))


@some_examples
@given(case=cases(groups=(2,), even=True))
def test_split_shuffled_input(case: Case, assert_same: AssertSame) -> None:
    x = case.image()
    expected = case.convolve(shuffle_channels(x), case.weight())
    terms = zip(x.chunk(2, dim=1), algebra.split_shuffled_input(case.weight()), strict=True)
    assert_same(expected, sum((case.convolve(half, weight) for half, weight in terms), torch.zeros(()).double()))


@some_examples
@given(case=cases(groups=(1,), even=True))
def test_unshuffle_input(case: Case, assert_same: AssertSame) -> None:
    x, weight = case.image(), case.weight()
    assert_same(case.convolve(shuffle_channels(x), weight), case.convolve(x, algebra.unshuffle_input(weight)))


@some_examples
@given(case=cases())
def test_dense_from_grouped(case: Case, assert_same: AssertSame) -> None:
    x, weight = case.image(), case.weight()
    dense = algebra.dense_from_grouped(weight, case.groups)
    assert dense.shape[1] == case.in_chans
    assert_same(case.convolve(x, weight), case.convolve(x, dense, groups=1))


def random_batchnorm(channels: int, seed: int) -> nn.BatchNorm2d:
    """A batch norm in eval mode with scales of either sign and variances down to eps."""
    generator = torch.Generator().manual_seed(seed)
    norm = nn.BatchNorm2d(channels, eps=1e-3).double().eval().requires_grad_(False)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.weight.copy_(torch.randn(channels, generator=generator))
    norm.bias.copy_(torch.randn(channels, generator=generator))
    norm.running_mean.copy_(torch.randn(channels, generator=generator))
    norm.running_var.copy_(10 ** (torch.rand(channels, generator=generator) * 5 - 5))
    return norm


@some_examples
@given(case=cases())
def test_batchnorm_affine(case: Case, assert_same: AssertSame) -> None:
    x, norm = case.image(), random_batchnorm(case.in_chans, case.seed)
    scale, shift = reparameterization.batchnorm_affine(norm)
    assert scale.dtype == shift.dtype == torch.float64
    assert_same(norm(x), x * scale[:, None, None] + shift[:, None, None])


@some_examples
@given(case=cases())
def test_fold_batchnorm(case: Case, assert_same: AssertSame) -> None:
    x, weight, norm = case.image(), case.weight(), random_batchnorm(case.groups * case.out_per_group, case.seed)
    folded, bias = reparameterization.fold_batchnorm(weight, norm)
    assert_same(norm(case.convolve(x, weight)), case.convolve(x, folded) + bias[:, None, None])


@some_examples
@given(case=cases())
def test_pointwise_as_3x3(case: Case, assert_same: AssertSame) -> None:
    x, weight = case.image(), case.weight()[:, :, :1, :1]
    expected = F.conv2d(x, weight, stride=case.stride, groups=case.groups)
    found = F.conv2d(x, reparameterization.pointwise_as_3x3(weight), stride=case.stride, padding=1, groups=case.groups)
    assert_same(expected, found)


@some_examples
@given(case=cases())
def test_pooled_pointwise_as_3x3(case: Case, assert_same: AssertSame) -> None:
    """Exact on even sizes; on odd ones the pool has no output for the last row or column, and is right elsewhere."""
    weight = case.weight()[:, :, :1, :1]
    x = case.random(2, case.in_chans, case.height + 1, case.width + 1)
    expected = F.conv2d(F.avg_pool2d(x, 2), weight, groups=case.groups)
    embedded = reparameterization.pooled_pointwise_as_3x3(weight)
    found = F.conv2d(x, embedded, stride=2, padding=1, groups=case.groups)
    sizes = (case.height + 1, case.width + 1)
    assert found.shape[2:] == tuple((size + 1) // 2 for size in sizes)
    assert expected.shape[2:] == tuple(size // 2 for size in sizes)
    assert_same(expected, found[:, :, : sizes[0] // 2, : sizes[1] // 2])
