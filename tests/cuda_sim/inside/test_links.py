"""Links of the virtual devices, measured in virtual time: what comes out is what was set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pytest

from parnet_deploy.errors import EngineError
from parnet_deploy.planning.links import Link
from parnet_deploy.planning.measured_links import MeasuredLink
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.links import Sweep, measure_links
from tests.cuda_sim.inside.host_engine import reach

DEVICES = ("cuda:0", "cuda:1", "cuda:2", "cuda:3")
SHORT = Sweep(sizes_bytes=(1 << 10, 1 << 13, 1 << 16, 1 << 19), copies=3, repeats=2)
# Events tell single precision: 6e-8 of a time, of which a latency is a small part.
RATE, LATENCY = 1e-6, 1e-4

Costs = dict[tuple[str, str], tuple[float, float]]


@pytest.fixture
def costs(sim: Any) -> Iterator[Costs]:
    """Every way between devices and host with a latency in us and a bandwidth in GB/s of its own."""
    rng = np.random.default_rng(11)
    sim.clock(on=True)
    found: Costs = {}
    for source, target in permutations(("cpu", *DEVICES), 2):
        found[source, target] = float(rng.uniform(1, 20)), float(np.exp(rng.uniform(0, np.log(400))))
        sim.link(source, target, *found[source, target])
    yield found
    reach(sim, True)


def expected_figures(costs: Costs, link: MeasuredLink) -> tuple[float, float]:
    if link.path != "staged":
        return costs[link.source, link.target]
    (down_us, down_gb_s), (up_us, up_gb_s) = costs[link.source, "cpu"], costs["cpu", link.target]
    return down_us + up_us, 1 / (1 / down_gb_s + 1 / up_gb_s)


@pytest.mark.parametrize(
    ("reached", "staged"),
    [
        (lambda *_: True, 0),
        (lambda *_: False, 12),
        (lambda first, second: (first + second) % 2 == 0, 8),
    ],
)
def test_each_link_is_measured_as_it_was_set(
    sim: Any,
    driver: Driver,
    costs: Costs,
    counts: Counter[str],
    reached: Callable[[int, int], bool],
    staged: int,
) -> None:
    for first, second in combinations(range(4), 2):
        sim.set_peer(first, second, reach=reached(first, second))
    sim.delays(5, 100)
    seen: list[MeasuredLink] = []
    report = measure_links(driver, sweep=SHORT, on_link=seen.append)
    assert sim.live() == {}
    assert report.links == tuple(seen)
    assert report.devices == ("Host Memory GPU",) * 4
    assert {(link.source, link.target) for link in seen} == set(costs)
    assert Counter(link.path for link in seen) == Counter(host=8, staged=staged, peer=12 - staged)
    for link in seen:
        latency_us, bandwidth_gb_s = expected_figures(costs, link)
        assert link.latency_us == pytest.approx(latency_us, rel=LATENCY)
        assert link.bandwidth_gb_s == pytest.approx(bandwidth_gb_s, rel=RATE)
        counts["links measured"] += 1


@pytest.mark.parametrize("peers", [True, False])
def test_equal_links_give_the_planner_what_was_set(sim: Any, driver: Driver, costs: Costs, peers: bool) -> None:
    link = Link(name="set", latency_us=2.5, bandwidth_gb_s=376, host_latency_us=8, host_bandwidth_gb_s=27)
    for source, target in costs:
        host = "cpu" in (source, target)
        sim.link(source, target, *((8, 27) if host else (2.5, 376)))
    reach(sim, peers)
    measured = measure_links(driver, sweep=SHORT).planner_link
    expected = link if peers else link.staged()
    assert measured.name == "measured on 4 x Host Memory GPU"
    assert measured.peer is peers
    for field in ("latency_us", "bandwidth_gb_s", "host_latency_us", "host_bandwidth_gb_s"):
        assert getattr(measured, field) == pytest.approx(getattr(expected, field), rel=LATENCY)


@pytest.mark.usefixtures("costs")
def test_copies_go_as_the_executor_makes_them(sim: Any, driver: Driver) -> None:
    """Behind two uploads, which keep the stream busy until all is enqueued."""
    sim.set_peer(0, 2, reach=False)
    sim.trace_start()
    measure_links(driver, sweep=Sweep(sizes_bytes=(64, 128), copies=2, repeats=1))
    trace = sim.timed_trace_stop()
    # Eight of each way: two sizes in two turns, of which one does not count, with two copies each.
    names = Counter(row.name for row in trace)
    assert names["peer-through-host"] == 0
    assert names["peer"] == 10 * 8
    assert names["d2h"] == (4 + 2) * 8
    assert names["h2d"] == (4 + 2) * 8 + (4 + 4 + 12) * 4 * 2
    for device in (0, 2):
        on_device = " ".join(row.name for row in trace if row.device == device)
        assert on_device.count("h2d h2d record d2h record wait d2h record wait record") == 4
        assert on_device.count("wait h2d record wait h2d record") == 4


def test_times_that_do_not_grow_are_refused(sim: Any, driver: Driver) -> None:
    sim.clock(on=True)
    with pytest.raises(EngineError, match="from cpu to cuda:0 cannot be measured: larger copies"):
        measure_links(driver, sweep=SHORT)
    assert sim.live() == {}
