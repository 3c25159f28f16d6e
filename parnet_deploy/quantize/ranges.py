"""Choose the range of a tensor from what calibration images made of it: min-max, percentile, least error, entropy.

What lies outside a range is clipped, what lies inside is rounded to steps that grow with the range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.quantization import Method
from parnet_deploy.quantize.grids import Array, Grid, from_grid, steps_for, to_grid

_BINS = 2048
# The part of a tensor's numbers that percentile clips at each end.
_TAIL = 1e-4
_LEAST_SHARE, _CANDIDATES = 0.3, 71

Range = tuple[float, float]


@dataclass
class Histogram:
    """Counts of a tensor's numbers in equal bins from `low` to `high`, its extremes over all calibration images."""

    low: float
    high: float
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, values: Array) -> None:
        """Count numbers; those beyond the extremes go to the outermost bins."""
        if self.high <= self.low:
            self.counts[0] += values.size
            return
        position = (values.ravel() - self.low) * (_BINS / (self.high - self.low))
        index = np.clip(position, 0, _BINS - 1).astype(np.int64)
        self.counts += np.bincount(index, minlength=_BINS)

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins, one more than there are bins."""
        return np.linspace(self.low, self.high, _BINS + 1)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middles of the bins."""
        return (self.edges[1:] + self.edges[:-1]) / 2


def min_max_range(seen: Histogram, _grid: Grid) -> Range:
    """Return everything that was seen: nothing is clipped."""
    return seen.low, seen.high


def percentile_range(seen: Histogram, _grid: Grid) -> Range:
    """Clip one in ten thousand of the numbers at each end."""
    below, total = np.cumsum(seen.counts), int(seen.counts.sum())
    low = int(np.searchsorted(below, _TAIL * total))
    high = int(np.searchsorted(below, (1 - _TAIL) * total))
    return float(seen.edges[low]), float(seen.edges[min(high, _BINS - 1) + 1])


def mse_range(seen: Histogram, grid: Grid) -> Range:
    """Return the range of least squared error of rounding and clipping, found on the bins' middles: first the upper end
    is moved in, then the lower.
    """
    low, high = seen.low, seen.high
    shares = np.linspace(1.0, _LEAST_SHARE, _CANDIDATES)
    if grid.is_symmetric:
        largest = max(-low, high)
        share = min(shares, key=lambda part: rounding_error(seen, -part * largest, part * largest, grid))
        return max(low, -share * largest), min(high, share * largest)
    high = min((part * high for part in shares), key=lambda end: rounding_error(seen, low, end, grid))
    low = min((part * low for part in shares), key=lambda end: rounding_error(seen, end, high, grid))
    return float(low), float(high)


def rounding_error(seen: Histogram, low: float, high: float, grid: Grid) -> float:
    """Return the mean squared error of quantising what was seen with the steps of a range."""
    steps = steps_for(low, high, grid)
    error = from_grid(to_grid(seen.centres, steps, grid), steps) - seen.centres
    return float((seen.counts * error**2).sum() / max(1, seen.counts.sum()))


def entropy_range(seen: Histogram, grid: Grid) -> Range:
    """Clip where the quantised distribution of absolute values tells least from the true one (Migacz 2017).

    For each threshold the numbers beyond it are counted as equal to it; the divergence is Kullback and Leibler's.
    """
    magnitudes = np.abs(seen.centres)
    largest = max(-seen.low, seen.high)
    if largest <= 0:
        return seen.low, seen.high
    folded, _ = np.histogram(magnitudes, _BINS, (0.0, largest), weights=seen.counts)
    best, threshold = np.inf, largest
    for stop in range(_BINS // 8, _BINS + 1, 16):
        end = largest * stop / _BINS
        levels = _levels(max(seen.low, -end), min(seen.high, end), end, grid)
        divergence = _divergence(folded, stop, levels)
        if divergence < best:
            best, threshold = divergence, end
    return max(seen.low, -threshold), min(seen.high, threshold)


def _levels(low: float, high: float, end: float, grid: Grid) -> int:
    """Return how many steps of the range lie between zero and the threshold."""
    return max(1, round(end / float(steps_for(low, high, grid).scale)))


def _divergence(folded: NDArray[np.float64], stop: int, levels: int) -> float:
    reference = folded[:stop].copy()
    inside = reference.copy()
    reference[-1] += folded[stop:].sum()
    level_of = np.arange(stop) * levels // stop
    # Within a level, the numbers spread evenly over the bins that hold any.
    occupied = (inside > 0).astype(np.float64)
    total = np.bincount(level_of, inside, levels)
    places = np.bincount(level_of, occupied, levels)
    spread = np.where(places > 0, total / np.maximum(places, 1), 0.0)[level_of] * occupied
    p, q = reference / max(reference.sum(), 1.0), spread / max(spread.sum(), 1.0)
    # Where the quantised distribution has nothing, a little stands for it: else one empty bin would decide.
    present = p > 0
    return float((p[present] * np.log(p[present] / np.maximum(q[present], 1e-10))).sum())


METHODS: dict[Method, Callable[[Histogram, Grid], Range]] = {
    "min-max": min_max_range,
    "percentile": percentile_range,
    "mse": mse_range,
    "entropy": entropy_range,
}
