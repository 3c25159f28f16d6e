"""Make of the times of copies a latency and a bandwidth for each way between devices, and one link for the planner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from statistics import median
from typing import Literal

from parnet_deploy.artifacts.schemas import Frozen
from parnet_deploy.planning.links import Link, NonNegative, PositiveRate

# Ways are compared by a copy of this size; what crosses between the stages of a ParNet-L is about as much.
REFERENCE_BYTES = 1 << 20


CopyPath = Literal["host", "peer", "staged"]


class MeasuredLink(Frozen):
    """One way from a device to another, or between a device and the host (`cpu`), and how copies go there.

    `peer` copies go directly, `staged` ones through the host's memory; the figures are of all the way.
    """

    source: str
    target: str
    path: CopyPath
    latency_us: NonNegative
    bandwidth_gb_s: PositiveRate

    def copy_us(self, size_bytes: int) -> float:
        """Return the microseconds that a copy takes."""
        return self.latency_us + size_bytes / self.bandwidth_gb_s / 1e3


def fit_copy_times(times_us: Mapping[int, float]) -> tuple[float, float]:
    """Return the latency in microseconds and the bandwidth in GB/s of copies that took so long, by their bytes.

    The line's slope is the median of the slopes between any two sizes, its height the median of what is left (Theil
    1950, Sen 1968). A size at which something disturbed the copies, or the driver copies in another way, moves
    neither. Least squares would follow it, and the noise of large copies is more than a small one takes altogether.

    Raises:
        ValueError: fewer than two sizes, or larger copies do not take longer.
    """
    if len(times_us) < 2:
        raise ValueError("a latency and a bandwidth need copies of two sizes")
    slope_us = median((times_us[b] - times_us[a]) / (b - a) for a, b in combinations(sorted(times_us), 2))
    if slope_us <= 0:
        raise ValueError("larger copies do not take longer")
    latency_us = median(time_us - slope_us * size_bytes for size_bytes, time_us in times_us.items())
    return max(0.0, latency_us), 1e-3 / slope_us


class LinkReport(Frozen):
    """Every way between the GPUs of a machine and its host, each on its own: nothing else was copied meanwhile.

    `devices` are the GPUs' names in the order of their numbers.
    """

    devices: tuple[str, ...]
    links: tuple[MeasuredLink, ...]

    @property
    def planner_link(self) -> Link:
        """The one kind of link that the planner knows: the slowest between GPUs, and the slowest to or from the host.

        With one GPU there is nothing between GPUs to measure; they are taken to reach each other through the host.
        """
        host = _slowest(link for link in self.links if link.path == "host")
        between = [link for link in self.links if link.path != "host"]
        slowest = _slowest(between or [host])
        link = Link(
            name="measured on " + ", ".join(f"{count} x {name}" for name, count in Counter(self.devices).items()),
            latency_us=slowest.latency_us,
            bandwidth_gb_s=slowest.bandwidth_gb_s,
            host_latency_us=host.latency_us,
            host_bandwidth_gb_s=host.bandwidth_gb_s,
            peer=slowest.path == "peer",
        )
        return link if between else link.staged()


def _slowest(links: Iterable[MeasuredLink]) -> MeasuredLink:
    return max(links, key=lambda link: link.copy_us(REFERENCE_BYTES))
