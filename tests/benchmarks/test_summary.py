"""Figures of a case from its runs, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.cases import BASELINE
from benchmarks.records import CaseResult, ContenderResult
from benchmarks.summary import best, compare, lines_of, milliseconds, peak_gflop_s, speedup

MakeEntry = Callable[..., ContenderResult]
MakeCase = Callable[..., CaseResult]


def test_lines_are_sorted_and_compared_round_by_round(make_case: MakeCase, make_entry: MakeEntry) -> None:
    case = make_case(
        make_entry(BASELINE, "peer", [100.0, 120.0, 90.0]),
        make_entry("ours", "ours", [50.0, 40.0, 90.0]),
        make_entry("eager", "reference", [200.0, 200.0, 200.0]),
        make_entry("halved", "ours", [10.0, 10.0, 10.0], precision="fp16"),
    )
    assert peak_gflop_s(case) == pytest.approx(1000)
    lines = lines_of(case)
    assert [line.name for line in lines] == ["halved", "ours", BASELINE, "eager"]
    ours = lines[1]
    assert (ours.ms, ours.least_ms, ours.most_ms) == (50.0, 40.0, 90.0)
    assert ours.gflop_s == pytest.approx(20 / 0.05)
    assert ours.share_of_peak == pytest.approx(0.4)
    # 100/50, 120/40 and 90/90.
    assert ours.against_baseline is not None
    assert (ours.against_baseline.least, ours.against_baseline.median, ours.against_baseline.most) == (1, 2, 3)
    assert str(ours.against_baseline) == "2.00 (1.00 to 3.00)"
    assert lines[2].against_baseline is None
    assert ours.cold_start_ms == pytest.approx(300 + 100 + 2 * 50)
    assert ours.peak_mib == 300
    fastest: Any = best(lines, "ours")
    assert fastest.name == "ours"
    fastest = best(lines, "ours", None)
    assert fastest.name == "halved"
    assert best(lines, "peak") is None
    assert compare(case, "eager", "ours").median == pytest.approx(0.25)


def test_a_difference_counts_when_every_round_shows_it() -> None:
    assert speedup([50, 51, 49], [100, 101, 99]).finding == "faster"
    assert speedup([100, 101, 99], [50, 51, 49]).finding == "slower"
    assert speedup([50, 150, 49], [100, 100, 100]).finding == "within the noise"
    with pytest.raises(ValueError, match="zip"):
        speedup([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.123"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234.5")])
def test_milliseconds_have_three_figures_at_least(value: float, text: str) -> None:
    assert milliseconds(value) == text
