"""Links: what a copy takes, by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from parnet_deploy.artifacts.schemas import Copy, Lane
from parnet_deploy.planning.links import LINKS, Link

# One microsecond and 1 GB/s between devices, 5 us and 0.5 GB/s to the host: 1000 bytes take 2 us and 7 us.
SLOW = Link(name="slow", latency_us=1, bandwidth_gb_s=1, host_latency_us=5, host_bandwidth_gb_s=0.5)
STAGED = SLOW.staged()


@pytest.mark.parametrize(
    ("link", "source", "target", "expected_us"),
    [
        (SLOW, "cuda:0", "cuda:1", 2.0),
        (SLOW, "cpu", "cuda:1", 7.0),
        (SLOW, "cuda:1", "cpu", 7.0),
        (SLOW, "cuda:1", "cuda:1", 0.0),
        (STAGED, "cuda:0", "cuda:1", 14.0),
        (STAGED, "cpu", "cuda:1", 7.0),
    ],
)
def test_a_copy_takes_latency_and_bytes(link: Link, source: str, target: str, expected_us: float) -> None:
    assert link.copy_ms(source, target, 1000) * 1e3 == pytest.approx(expected_us)
    copy = Copy(lane=Lane(device="cuda:1"), tensor="t", source=source, target=target)
    assert link.cost_of({"t": 1000})(copy) * 1e3 == pytest.approx(expected_us)


def test_named_links_are_below_their_line_rates() -> None:
    line_rates_gb_s = {"nvlink4": 450.0, "pcie4x16": 31.51, "pcie3x16": 15.75}
    assert set(LINKS) == set(line_rates_gb_s)
    for name, link in LINKS.items():
        assert link.name == name
        assert 0.8 < link.bandwidth_gb_s / line_rates_gb_s[name] < 0.9
    # Stream 1's result of ParNet-L in float16 over PCIe 4.0: 1 MB at 27 GB/s.
    assert LINKS["pcie4x16"].copy_ms("cuda:0", "cuda:1", 1_003_520) == pytest.approx(0.003 + 0.0370, abs=1e-4)
    # Without peer access: the 11 to 20 us that are reported of small copies.
    staged = LINKS["pcie4x16"].staged()
    assert 11 <= staged.copy_ms("cuda:0", "cuda:1", 4) * 1e3 <= 20


@pytest.mark.parametrize("change", [{"bandwidth_gb_s": 0}, {"latency_us": -1}, {"host_bandwidth_gb_s": float("nan")}])
def test_impossible_links_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Link.model_validate({**SLOW.model_dump(), **change})
