"""Measure what fusion changes: training form against fused form, tensor by tensor, in float64 and in float32."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.errors import CheckFailedError
from parnet_deploy.fusion.fuse import fuse
from parnet_deploy.models.blocks import shuffle_channels
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.models.variants import VARIANTS, architecture_of
from parnet_deploy.planning.partition import LOGITS, fusion_name

# Fusion is exact algebra, so both forms differ by rounding alone, which through twelve layers of some thousand products
# each comes to some ten units in the last place: over the registered variants 1e-15 to 4e-15 in float64 (unit
# 2.2e-16) and 4e-7 to 2e-6 in float32 (unit 1.2e-7). The tolerances leave a margin for ill-scaled networks and lie far
# below what a dropped or misplaced term does. float64 proves the algebra; float32 shows what is deployed.
FLOAT64_TOLERANCE = 1e-12
FLOAT32_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Difference:
    """Differences between two networks on the same images.

    `per_tensor` is max|a - b| / max|a| of each boundary tensor and of the logits, in the order of computation;
    `relative` and `max_abs` are the largest over all of them. A number that is not finite on either side counts as
    infinite difference.
    """

    max_abs: float
    relative: float
    per_tensor: dict[str, float]

    def first_beyond(self, tolerance: float) -> str | None:
        """Return the first tensor that departs by more than `tolerance`; what follows it departs by consequence."""
        return next((name for name, relative in self.per_tensor.items() if relative > tolerance), None)


@dataclass(frozen=True)
class FusionDifference:
    """What fusion changes in each precision."""

    float64: Difference
    float32: Difference

    def check(self) -> None:
        """Raise `CheckFailedError` naming the first tensor that departs beyond the tolerances, and how far."""
        for dtype, difference, tolerance in (
            ("float64", self.float64, FLOAT64_TOLERANCE),
            ("float32", self.float32, FLOAT32_TOLERANCE),
        ):
            name = difference.first_beyond(tolerance)
            if name is not None:
                raise CheckFailedError(
                    f"the fused network departs from the trained one: {name} differs by "
                    f"{difference.per_tensor[name]:.1e} relative in {dtype}, beyond {tolerance:.0e}",
                    remedy="do not deploy it; check the weights for extreme scales, or report a fault in fusion",
                )


def fusion_difference(
    training: ParNet, *, batch: int = 2, seed: int = 0, size: tuple[int, int] | None = None
) -> FusionDifference:
    """Fuse a network in float64 and in float32 and compare each with its training form on random images.

    `size` is (H, W) in pixels; by default that of the registered variant. The network itself is not changed.

    Raises:
        FusionError: the network cannot be fused; see `fuse`.
        NetworkError: a size that the network cannot take.
    """
    shape = (batch, training.cfg.in_chans, *(size or _default_size(training.cfg)))
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return FusionDifference(
        float64=_difference_in(torch.float64, training, images), float32=_difference_in(torch.float32, training, images)
    )


def _difference_in(dtype: torch.dtype, training: ParNet, images: Tensor) -> Difference:
    # One precision after the other, so that the copies of only one are held at a time.
    network = _as_dtype(training, dtype)
    return measure_difference(network, fuse(network), images, dtype)


def _default_size(cfg: NetworkConfig) -> tuple[int, int]:
    known = VARIANTS.get(architecture_of(cfg))
    return known.preprocessing.input_size[1:] if known is not None else (7 * cfg.reduction, 7 * cfg.reduction)


def measure_difference(training: ParNet, fused: ParNet, images: Tensor, dtype: torch.dtype) -> Difference:
    """Compare two forms of a network on images `[N, C, H, W]`, computed in `dtype`; neither is changed.

    Compared are the tensors that both forms have, and the logits. The fused form leaves the outputs of its Fusion
    blocks unshuffled; they are shuffled here.
    """
    training, fused = _as_dtype(training, dtype), _as_dtype(fused, dtype)
    reference = next(training.parameters())
    images = images.to(device=reference.device, dtype=dtype)
    with torch.no_grad():
        expected, found = _named_tensors(training, images), _named_tensors(fused, images)
    per_tensor, max_abs = {}, 0.0
    for name, wanted in expected.items():
        error, relative = _compare(wanted, found[name])
        per_tensor[name] = relative
        max_abs = max(max_abs, error)
    return Difference(max_abs=max_abs, relative=max(per_tensor.values()), per_tensor=per_tensor)


def _as_dtype(model: ParNet, dtype: torch.dtype) -> ParNet:
    if next(model.parameters()).dtype == dtype:
        return model
    return copy.deepcopy(model).to(dtype)


def _named_tensors(model: ParNet, images: Tensor) -> dict[str, Tensor]:
    """Return the boundary tensors that both forms have and the logits, as the training form has them."""
    tensors = {name: tensor for name, tensor in model.forward_boundaries(images).items() if "/" not in name}
    logits = model.forward_head(tensors["last"])
    if model.form == "fused":
        for name in (fusion_name(i) for i in range(2, model.cfg.num_streams + 1)):
            tensors[name] = shuffle_channels(tensors[name])
    return tensors | {LOGITS: logits}


def _compare(wanted: Tensor, found: Tensor) -> tuple[float, float]:
    error = float((wanted - found).abs().max())
    scale = float(wanted.abs().max())
    if not math.isfinite(error):
        return math.inf, math.inf
    # An all-zero tensor has no scale; any departure from it counts in full.
    return error, error / scale if scale else (0.0 if error == 0 else math.inf)
