"""Say how long a tensor takes from one device to another: named links, or one that was measured.

A copy takes its latency and then its bytes at the bandwidth; copies do not share a link with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import Field

from parnet_deploy.artifacts.schemas import Copy, Frozen
from parnet_deploy.planning.schedule import HOST

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# What large copies reach of PCIe's line rate once packet headers are paid for: 54 to 56 of 63 GB/s on PCIe 5.0 x16, by
# NVIDIA's p2pBandwidthLatencyTest.
_PCIE_PAYLOAD = 0.86
_PCIE3_X16_GB_S, _PCIE4_X16_GB_S, _PCIE5_X16_GB_S = (rate * 16 * 128 / 130 / 8 for rate in (8, 16, 32))
# Two such copies make the 11 to 20 us that are reported between GPUs without peer access.
_HOST_LATENCY_US = 8.0


class Link(Frozen):
    """How devices reach each other and the host; latencies in microseconds, bandwidths of one direction in GB/s (1e9).

    `latency_us` and `bandwidth_gb_s` are of all the way from device to device. Without `peer` this way is staged: to
    the host's memory and then, when all is there, to the other device.
    """

    name: str
    latency_us: NonNegative
    bandwidth_gb_s: PositiveRate
    host_latency_us: NonNegative
    host_bandwidth_gb_s: PositiveRate
    peer: bool = True

    @property
    def description(self) -> str:
        """What copies take, in words."""
        way = "" if self.peer else " through the host"
        return (
            f"between GPUs{way} {self.latency_us:.3g} us + bytes at {self.bandwidth_gb_s:.3g} GB/s; "
            f"host {self.host_latency_us:.3g} us + bytes at {self.host_bandwidth_gb_s:.3g} GB/s"
        )

    def staged(self) -> Link:
        """Return the link of the same devices where they cannot reach each other: two copies over the host's link."""
        change = {
            "latency_us": 2 * self.host_latency_us,
            "bandwidth_gb_s": self.host_bandwidth_gb_s / 2,
            "peer": False,
        }
        return self.model_copy(update=change)

    def copy_ms(self, source: str, target: str, size_bytes: int) -> float:
        """Return the milliseconds that a copy takes; devices are named as in a lane, the host is `cpu`."""
        if source == target:
            return 0.0
        if HOST in (source, target):
            return self.host_latency_us / 1e3 + size_bytes / self.host_bandwidth_gb_s / 1e6
        return self.latency_us / 1e3 + size_bytes / self.bandwidth_gb_s / 1e6

    def cost_of(self, sizes_bytes: Mapping[str, int]) -> Callable[[Copy], float]:
        """Return what `simulate` asks for: from a copy command to its milliseconds."""
        return lambda copy: self.copy_ms(copy.source, copy.target, sizes_bytes[copy.tensor])


LINKS: dict[str, Link] = {
    link.name: link
    for link in (
        # H100: 18 links of 25 GB/s each way (NVIDIA H100 datasheet: 900 GB/s both ways); 376 GB/s and 1.8 to 2.3 us are
        # what users report of peer copies. Its host is at PCIe 5.0 x16.
        Link(
            name="nvlink4",
            latency_us=2.0,
            bandwidth_gb_s=376.0,
            host_latency_us=_HOST_LATENCY_US,
            host_bandwidth_gb_s=_PCIE_PAYLOAD * _PCIE5_X16_GB_S,
        ),
        # 16 lanes of 16 and 8 GT/s, 128b/130b coded (PCI-SIG, base specifications 4.0 and 3.0): 31.5 and 15.75 GB/s.
        # 2.6 to 2.9 us are reported of peer copies between A100 cards.
        Link(
            name="pcie4x16",
            latency_us=3.0,
            bandwidth_gb_s=_PCIE_PAYLOAD * _PCIE4_X16_GB_S,
            host_latency_us=_HOST_LATENCY_US,
            host_bandwidth_gb_s=_PCIE_PAYLOAD * _PCIE4_X16_GB_S,
        ),
        Link(
            name="pcie3x16",
            latency_us=3.0,
            bandwidth_gb_s=_PCIE_PAYLOAD * _PCIE3_X16_GB_S,
            host_latency_us=_HOST_LATENCY_US,
            host_bandwidth_gb_s=_PCIE_PAYLOAD * _PCIE3_X16_GB_S,
        ),
    )
}
