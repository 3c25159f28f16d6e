"""Comparing with an earlier report: what is a regression, and what may not be compared at all."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.report import Contender, Machine, MeasuredPlan, Report
from parnet_deploy.artifacts.schemas import DeviceRecord
from parnet_deploy.bench.baseline import (
    Baseline,
    change_of,
    compare_with,
    comparison_notes,
    open_baseline,
    settings_of_baseline,
    steadiest_metric,
)
from parnet_deploy.bench.contenders import contender_of
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.errors import ArtifactError, InferenceError

NAME = "<fast> & $new$"


def plan_of(contender: Contender, **changes: Any) -> MeasuredPlan:
    return MeasuredPlan(**{name: getattr(contender, name) for name in MeasuredPlan.model_fields} | changes)


def plans_of(report: Report) -> list[MeasuredPlan]:
    return [plan_of(entry) for entry in report.contenders]


def notes_for(baseline: Baseline, plans: list[MeasuredPlan], machine: Machine | None = None, **settings: Any) -> Any:
    asked = baseline.report.settings.model_copy(update=settings)
    return comparison_notes(baseline, plans, asked, machine or baseline.report.machine, 2)


@pytest.fixture
def baseline(report: Report) -> Baseline:
    """The report compared by its fastest queries, each plan's own."""
    return Baseline(Path("earlier"), report, "min_latency", "absolute", 0.05)


@pytest.fixture
def relative(report: Report) -> Baseline:
    """The report compared by the speed-up over its first plan."""
    return Baseline(Path("earlier"), report, "min_latency", "relative", 0.05)


@pytest.mark.parametrize(
    ("before", "after", "finding"),
    [
        ([10.0, 10.1, 9.9], [12.0, 12.1, 11.9], "slower"),
        ([12.0, 12.1, 11.9], [10.0, 10.1, 9.9], "faster"),
        # Certain, but small.
        ([10.0, 10.01, 9.99], [10.3, 10.31, 10.29], "within the tolerance"),
        ([10.3, 10.31, 10.29], [10.0, 10.01, 9.99], "within the tolerance"),
        # Large, but no more than the rounds of either run differ among themselves.
        ([10.0, 15.0, 8.0], [13.0, 9.0, 16.0], "within the noise"),
        ([10.0, 10.0], [10.0, 10.0], "within the noise"),
        # The spread of one of the two is enough.
        ([10.0, 10.0, 10.0], [8.0, 20.0, 12.0], "within the noise"),
        ([10.0, 10.0], [11.0, 11.0], "slower"),
    ],
)
def test_a_regression_is_beyond_the_spread_of_both_and_the_tolerance(
    before: list[float], after: list[float], finding: str
) -> None:
    assert change_of("plan", before, after, is_better_higher=False, tolerance=0.05).finding == finding
    # The same as throughputs.
    rates = [[1000 / value for value in values] for values in (before, after)]
    change = change_of("plan", *rates, is_better_higher=True, tolerance=0.05)
    assert change.finding == finding
    assert change.slowdown == pytest.approx(geometric_mean(after) / geometric_mean(before))


def test_the_tolerance_is_the_users() -> None:
    rounds = [10.0, 10.1, 9.9], [12.0, 12.1, 11.9]
    findings = [
        change_of("plan", *rounds, is_better_higher=False, tolerance=value).finding for value in (0.0, 0.19, 0.21)
    ]
    assert findings == ["slower", "slower", "within the tolerance"]


@given(
    st.lists(st.floats(0.1, 100), min_size=2, max_size=6),
    st.lists(st.floats(0.1, 100), min_size=2, max_size=6),
    st.floats(0, 1),
)
def test_swapping_the_runs_swaps_the_finding(before: list[float], after: list[float], tolerance: float) -> None:
    forward = change_of("plan", before, after, is_better_higher=False, tolerance=tolerance)
    backward = change_of("plan", after, before, is_better_higher=False, tolerance=tolerance)
    assert forward.slowdown == pytest.approx(1 / backward.slowdown)
    assert forward.interval[0] == pytest.approx(1 / backward.interval[1])
    assert forward.interval[0] <= forward.slowdown * (1 + 1e-9)
    assert forward.slowdown <= forward.interval[1] * (1 + 1e-9)
    if all(abs(math.log(bound)) > 1e-9 for bound in forward.interval):
        swapped = {"slower": "faster", "faster": "slower"}
        assert backward.finding == swapped.get(forward.finding, forward.finding)


def test_equal_runs_are_seldom_called_slower() -> None:
    generator = random.Random(0)
    trials = 4000

    def rounds(spread: float) -> list[float]:
        return [generator.lognormvariate(0, spread) for _ in range(5)]

    called = sum(
        change_of("plan", rounds(0.05), rounds(0.10), is_better_higher=False, tolerance=0.0).finding == "slower"
        for _ in range(trials)
    )
    # 2.5% is what one side of a 95% interval allows, less what rounding the degrees of freedom down takes; the standard
    # error of 4000 trials is 0.25%.
    assert 0.013 < called / trials < 0.033


@pytest.mark.parametrize(
    ("scenario", "metric"),
    [
        ("single-stream", "min_latency"),
        ("multi-stream", "min_latency"),
        ("server", "p50_latency"),
        ("offline", "throughput"),
    ],
)
def test_the_steadiest_metric_of_each_scenario(scenario: Any, metric: str) -> None:
    assert steadiest_metric(scenario) == metric


def test_a_report_against_itself_has_no_regression(baseline: Baseline) -> None:
    comparison = compare_with(baseline, baseline.report.contenders, ())
    assert comparison.regressions == ()
    assert [(change.contender, change.slowdown) for change in comparison.changes] == [("base", 1.0), (NAME, 1.0)]


def slowed(contender: Contender, factor: float) -> Contender:
    """Return a contender whose every latency is `factor` times as long."""
    rounds = tuple(
        entry.model_copy(
            update={
                "latency": entry.latency.model_copy(
                    update={name: getattr(entry.latency, name) * factor for name in ("min_ms", "p50_ms", "p90_ms")}
                )
            }
        )
        for entry in contender.rounds
    )
    return contender.model_copy(update={"rounds": rounds})


def test_absolute_figures_tell_which_plan_became_slower(baseline: Baseline) -> None:
    base, fast = baseline.report.contenders
    comparison = compare_with(baseline, (slowed(base, 1.5), fast), ())
    # Both rounds of `base` had 10 ms for its fastest query, so they have no spread.
    assert [change.contender for change in comparison.regressions] == ["base"]
    change = comparison.regressions[0]
    assert (change.before, change.after, change.slowdown) == pytest.approx((10.0, 15.0, 1.5))


def test_relative_figures_leave_out_what_slows_every_plan(relative: Baseline) -> None:
    slow_machine = tuple(slowed(entry, 3.0) for entry in relative.report.contenders)
    comparison = compare_with(relative, slow_machine, ())
    assert [change.contender for change in comparison.changes] == [NAME]
    assert comparison.changes[0].slowdown == pytest.approx(1.0)
    # Speed-ups by the fastest query: 10 / 5 and 10 / 4.
    assert comparison.changes[0].before == pytest.approx(math.sqrt(2.0 * 2.5))
    base, fast = relative.report.contenders
    slower = compare_with(relative, (base, slowed(fast, 2.0)), ())
    assert slower.changes[0].slowdown == pytest.approx(2.0)


def test_a_verdict_that_turned_is_noted(baseline: Baseline) -> None:
    valid = tuple(
        entry.model_copy(
            update={"rounds": tuple(item.model_copy(update={"verdict": "VALID"}) for item in entry.rounds)}
        )
        for entry in baseline.report.contenders
    )
    earlier = Baseline(
        baseline.folder, baseline.report.model_copy(update={"contenders": valid}), "min_latency", "absolute", 0.05
    )
    notes = compare_with(earlier, baseline.report.contenders, ("first",)).notes
    assert notes[:2] == ("first", "LoadGen called base VALID before, and INVALID now")


def test_a_report_on_disk_is_opened(report: Report, tmp_path: Path) -> None:
    write_manifest(tmp_path / "report.json", report)
    opened = open_baseline(tmp_path, by="relative", tolerance=0.1)
    assert opened == Baseline(tmp_path, report, "min_latency", "relative", 0.1)
    with pytest.raises(ArtifactError, match=r"no report\.json here"):
        open_baseline(tmp_path / "nowhere")


def test_a_report_of_one_round_has_no_spread(report: Report, tmp_path: Path) -> None:
    base = report.contenders[0]
    single = report.model_copy(
        update={"contenders": (contender_of(plan_of(base), base.rounds[:1]),), "ratios": ()},
    )
    write_manifest(tmp_path / "report.json", single)
    with pytest.raises(ArtifactError, match="one round"):
        open_baseline(tmp_path)


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_a_tolerance_is_a_number_from_0(tmp_path: Path, tolerance: float) -> None:
    with pytest.raises(InferenceError, match="tolerance must be a number from 0"):
        open_baseline(tmp_path, tolerance=tolerance)


def test_offline_has_no_latency_to_compare(report: Report, tmp_path: Path) -> None:
    write_manifest(tmp_path / "report.json", report.model_copy(update={"settings": settings_for("offline")}))
    assert open_baseline(tmp_path).metric == "throughput"
    with pytest.raises(InferenceError, match="no latency"):
        open_baseline(tmp_path, metric="p50_latency")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenario": "offline"}, "scenario single-stream, and now it is offline"),
        ({"concurrency": 2}, "concurrency 1, and now it is 2"),
        ({"samples_per_query": 4}, "samples per query 1, and now it is 4"),
        ({"target_qps": 5.0}, "target qps None, and now it is 5"),
    ],
)
def test_other_queries_are_not_compared(baseline: Baseline, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        settings_of_baseline(baseline, baseline.report.settings.model_copy(update=change))


def test_longer_rounds_may_be_compared(baseline: Baseline) -> None:
    settings = baseline.report.settings.model_copy(update={"min_duration_ms": 5000, "min_query_count": 100})
    assert settings_of_baseline(baseline, settings) == settings


def test_a_server_is_asked_for_what_it_was_asked_before(report: Report) -> None:
    earlier = settings_for("server", target_qps=40.0, target_latency_ms=90.0)
    baseline = Baseline(
        Path("earlier"), report.model_copy(update={"settings": earlier}), "p50_latency", "absolute", 0.05
    )
    assert settings_of_baseline(baseline, settings_for("server")) == earlier
    with pytest.raises(ArtifactError, match="target qps 40"):
        settings_of_baseline(baseline, settings_for("server", target_qps=41.0))


def test_nothing_is_noted_where_nothing_changed(baseline: Baseline) -> None:
    assert notes_for(baseline, plans_of(baseline.report)) == ()


def test_what_changed_is_noted(baseline: Baseline) -> None:
    base, fast = baseline.report.contenders
    plans = [
        plan_of(base, plan_sha256="1" * 64),
        plan_of(fast, precision="fp16", backend_version="2", plan_sha256="2" * 64),
        plan_of(base, label="third"),
    ]
    machine = baseline.report.machine.model_copy(update={"packages": {"onnxruntime": "2.0", "numpy": "2"}})
    assert notes_for(baseline, plans, machine, cuda=CudaOptions(nvtx=True)) == (
        "third is not in the baseline",
        "base was built anew",
        f"{NAME}: precision was fp32, now fp16",
        f"{NAME}: backend version was 1, now 2",
        "numpy was none, now 2",
        "onnxruntime was 1.0, now 2.0",
        "CUDA was adapter: pycuda if it is installed; graphs: auto; NVTX ranges: no, now adapter: pycuda if it is"
        " installed; graphs: auto; NVTX ranges: yes",
    )


def test_a_plan_that_is_gone_is_noted(baseline: Baseline) -> None:
    assert notes_for(baseline, plans_of(baseline.report)[:1]) == (f"{NAME} of the baseline was not measured",)


def test_milliseconds_of_another_machine_are_not_compared(baseline: Baseline, relative: Baseline) -> None:
    other = baseline.report.machine.model_copy(update={"cpu": "another", "usable_cores": 8})
    with pytest.raises(
        ArtifactError, match=r"processor \(new\) with 2 usable cores, and this is another .*\n.*--compare relative"
    ):
        notes_for(baseline, plans_of(baseline.report), other)
    assert notes_for(relative, plans_of(relative.report), other) == (
        "measured on processor (new) with 2 usable cores, now on another (new) with 8 usable cores",
    )


def test_processors_of_one_name_differ_in_their_capability(baseline: Baseline, relative: Baseline) -> None:
    here = baseline.report.machine
    other = here.model_copy(update={"capability": "old"})
    with pytest.raises(ArtifactError, match=r"processor \(new\) with .*, and this is processor \(old\)"):
        notes_for(baseline, plans_of(baseline.report), other)
    assert notes_for(relative, plans_of(relative.report), other) == (
        "measured on processor (new) with 2 usable cores, now on processor (old) with 2 usable cores",
    )


def test_a_report_that_knows_no_capability_is_compared_by_name(baseline: Baseline) -> None:
    unknown = baseline.report.machine.model_copy(update={"capability": None})
    report = baseline.report.model_copy(update={"machine": unknown})
    before = replace(baseline, report=report)
    assert notes_for(before, plans_of(report), baseline.report.machine) == ()


def test_milliseconds_of_another_gpu_are_not_compared(baseline: Baseline) -> None:
    plans = plans_of(baseline.report)
    gpu = DeviceRecord(device="cuda:0", name="GPU", capability="8.6")
    with pytest.raises(ArtifactError, match="measured on cpu processor, and this is cuda:0 GPU"):
        notes_for(baseline, [plans[0].model_copy(update={"devices": (gpu,)})])


def test_other_images_are_not_compared(baseline: Baseline) -> None:
    plans = plans_of(baseline.report)
    with pytest.raises(ArtifactError, match=r"took images of \[3, 16, 16\], and now takes \[3, 32, 32\]"):
        notes_for(baseline, [plans[0].model_copy(update={"input_shape": (3, 32, 32)})])


def test_plans_are_matched_by_name(baseline: Baseline, relative: Baseline) -> None:
    base, fast = plans_of(baseline.report)
    with pytest.raises(ArtifactError, match="no plan of the same name: the report has base, <fast>"):
        notes_for(baseline, [base.model_copy(update={"label": "other"})])
    for plans in ([fast, base], [base]):
        with pytest.raises(ArtifactError, match="only over the same first plan"):
            notes_for(relative, plans)


def test_one_round_is_not_compared(baseline: Baseline) -> None:
    report = baseline.report
    with pytest.raises(ArtifactError, match="one round cannot be compared"):
        comparison_notes(baseline, plans_of(report), report.settings, report.machine, 1)
