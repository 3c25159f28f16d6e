"""Links from times of copies: the fit against outliers and noise, and the one link that the planner is given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.planning.links import Link
from parnet_deploy.planning.measured_links import CopyPath, LinkReport, MeasuredLink, fit_copy_times

SIZES = [4**exponent << 10 for exponent in range(1, 8)]
latencies_us = st.floats(0.5, 50)
bandwidths_gb_s = st.floats(0.5, 900)


def times_us(latency_us: float, bandwidth_gb_s: float) -> dict[int, float]:
    return {size: latency_us + size / bandwidth_gb_s / 1e3 for size in SIZES}


@given(latencies_us, bandwidths_gb_s, st.sampled_from(SIZES), st.floats(0.2, 50))
def test_one_disturbed_size_moves_nothing(latency_us: float, bandwidth_gb_s: float, size: int, factor: float) -> None:
    disturbed = times_us(latency_us, bandwidth_gb_s)
    disturbed[size] *= factor
    assert fit_copy_times(disturbed) == (
        pytest.approx(latency_us, rel=1e-6, abs=1e-6),
        pytest.approx(bandwidth_gb_s, rel=1e-6),
    )


@given(latencies_us, bandwidths_gb_s, st.integers(0, 2**32 - 1))
def test_noise_of_a_percent_moves_copies_by_little_more(latency_us: float, bandwidth_gb_s: float, seed: int) -> None:
    true = times_us(latency_us, bandwidth_gb_s)
    rng = np.random.default_rng(seed)
    noisy = {size: float(time * rng.uniform(0.99, 1.01)) for size, time in true.items()}
    found = way("cuda:0", "cuda:1", "peer", *fit_copy_times(noisy))
    for size in SIZES[1:]:
        assert found.copy_us(size) == pytest.approx(true[size], rel=0.05)


def test_a_latency_is_never_negative() -> None:
    assert fit_copy_times({1000: 0.5, 2000: 2.0, 3000: 3.5}) == (0.0, pytest.approx(1e3 / 1.5e3))


@pytest.mark.parametrize(
    ("times", "what"), [({1000: 1.0}, "two sizes"), ({}, "two sizes"), ({1000: 2.0, 2000: 2.0}, "do not take longer")]
)
def test_times_that_are_no_line_are_refused(times: dict[int, float], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        fit_copy_times(times)


def way(source: str, target: str, path: CopyPath, latency_us: float, bandwidth_gb_s: float) -> MeasuredLink:
    return MeasuredLink(source=source, target=target, path=path, latency_us=latency_us, bandwidth_gb_s=bandwidth_gb_s)


HOST = (way("cpu", "cuda:0", "host", 8.0, 25.0), way("cuda:0", "cpu", "host", 7.0, 20.0))


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        # 1 MiB in 5.5, 43.3 and 48 us: the higher latency alone does not make a link the slowest.
        ((way("cuda:0", "cuda:1", "peer", 2.0, 300.0), way("cuda:1", "cuda:0", "peer", 1.4, 25.0)), (1.4, 25.0, True)),
        ((way("cuda:0", "cuda:1", "peer", 9.0, 300.0), way("cuda:1", "cuda:0", "peer", 1.4, 25.0)), (1.4, 25.0, True)),
        # As measured, not as two copies of the host's link.
        ((way("cuda:0", "cuda:1", "staged", 21, 11), way("cuda:1", "cuda:2", "peer", 2, 30)), (21.0, 11.0, False)),
        ((), (14.0, 10.0, False)),
    ],
)
def test_the_planner_is_given_the_slowest(
    between: tuple[MeasuredLink, ...], expected: tuple[float, float, bool]
) -> None:
    report = LinkReport(devices=("A", "A", "B"), links=(*HOST, *between))
    latency_us, bandwidth_gb_s, peer = expected
    assert report.planner_link == Link(
        name="measured on 2 x A, 1 x B",
        latency_us=latency_us,
        bandwidth_gb_s=bandwidth_gb_s,
        host_latency_us=7.0,
        host_bandwidth_gb_s=20.0,
        peer=peer,
    )
