"""From how many cores on a split wins: measured on those at hand, predicted beyond them; the prediction is pure.

A stage's time on k cores is fitted by a + b / k (Amdahl 1967) to its times on one core and on more; a is what further
cores do not make faster, and what streams side by side can win. The schedule is then played through with these times
(`planning.timeline.simulate`). That cores share memory bandwidth and caches is not modelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import Plan
from parnet_deploy.planning.placement import lanes_at_once, split_cores
from parnet_deploy.planning.schedule import schedule
from parnet_deploy.planning.timeline import simulate

# How far a prediction goes.
MOST_CORES = 64


@dataclass(frozen=True)
class Scaling:
    """A stage's milliseconds on k cores: `serial_ms + parallel_ms / k`."""

    serial_ms: float
    parallel_ms: float

    def on(self, cores: int) -> float:
        """Return the time on some cores."""
        return self.serial_ms + self.parallel_ms / cores


def fit_scaling(times_ms: Mapping[int, float]) -> Scaling:
    """Fit times by number of cores with least squares; a stage that further cores slow down is taken not to scale.

    One time alone says nothing of scaling; it is taken to scale perfectly, which favours no split.

    Raises:
        ValueError: no times.
    """
    if not times_ms:
        raise ValueError("no times to fit")
    if len(times_ms) == 1:
        ((cores, time_ms),) = times_ms.items()
        return Scaling(0.0, time_ms * cores)
    xs, ys = [1 / cores for cores in times_ms], list(times_ms.values())
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    slope = min(max(slope, 0.0), mean_y / mean_x)
    return Scaling(mean_y - slope * mean_x, slope)


def predict_split_ms(plan: Plan, scalings: Mapping[str, Scaling], cores: int) -> float:
    """Return the latency of a plan's stages, side by side as they are placed, on some cores shared among them.

    Where there are fewer cores than lanes, stages that run at the same time slow each other by as much.
    """
    shares = split_cores(plan.stages, plan.placement, range(cores))
    durations_ms = {
        stage: scalings[stage].on(len(shares[stage])) * max(1.0, len(lanes) / cores)
        for stage, lanes in lanes_at_once(plan.stages, plan.placement).items()
    }
    commands = schedule(plan.stages, plan.placement, plan.input, plan.output)
    return max(span.end_ms for span in simulate(commands, durations_ms))


def core_counts(at_hand: int) -> tuple[int, ...]:
    """Return the numbers of cores that are told of: each at hand up to four, then powers of two."""
    powers = [2**power for power in range(MOST_CORES.bit_length())]
    return tuple(sorted({*range(1, min(at_hand, 4) + 1), *powers, at_hand}))


def wins_from(points: Sequence[tuple[int, float, float]]) -> int | None:
    """Return from how many cores on a split stays ahead; points are (cores, whole, split), ascending."""
    winner = None
    for cores, whole_ms, split_ms in points:
        if split_ms >= whole_ms:
            winner = None
        elif winner is None:
            winner = cores
    return winner
