"""Tuning the digits network: plans are really built and evaluated, and their times are invented."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parnet_deploy.artifacts.files import read_manifest, sha256_of_file
from parnet_deploy.artifacts.folders import open_bundle, open_plan
from parnet_deploy.artifacts.schemas import BatchRange, Plan
from parnet_deploy.artifacts.tuning import TuningLimits, TuningReport
from parnet_deploy.checks.evaluate import evaluate, load_labelled
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.errors import ArtifactError, CheckFailedError, EngineError, OutputExistsError
from parnet_deploy.runtime import Session
from parnet_deploy.tuning import find_crossover, question, workshop
from parnet_deploy.tuning.tune import Tuned, TuneOptions, tune
from tests.engines import toy_bundles

Bundles = dict[str, Path]
Times = Callable[[Callable[[Plan], float]], Any]
ORT = ("onnxruntime",)


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have four cores, whatever it has."""
    pretend_cores(monkeypatch, 4)


def pretend_cores(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in (question, workshop, find_crossover):
        monkeypatch.setattr(module, "usable_cores", lambda: tuple(range(count)))


def lanes_of(plan: Plan) -> int:
    return len(set(plan.placement.values()))


def most_threads(plan: Plan) -> int:
    return max(engine.threads for engine in plan.engines)


def options(**limits: Any) -> TuneOptions:
    return TuneOptions(TuningLimits(budget_s=60.0, **limits), ORT, crossover=False)


def statuses(tuned: Tuned) -> dict[str, str]:
    return {entry.label: entry.status for entry in tuned.report.tried}


def test_the_best_plan_is_written_with_the_record_of_all(
    digits_bundles: Bundles, tmp_path: Path, invented_times: Times
) -> None:
    """One whole bundle: its cuts take part, and a split that is clearly the fastest is taken."""
    times = invented_times(lambda plan: 10.0 / lanes_of(plan) if most_threads(plan) == 4 else 20.0)
    tuned = tune([digits_bundles["whole"]], tmp_path / "plan", options(), time_plan=times)
    chosen = tuned.report.chosen
    assert chosen.label == "whole (streams), onnxruntime, side by side, 4 threads"
    assert (chosen.is_split, chosen.rounds_ms, chosen.peak_bytes) == (True, (10 / 3,) * 5, 1000)
    assert len(tuned.report.tried) == 4 + 4 + 4
    assert {bundle.partition for bundle in tuned.report.bundles} == {"whole", "streams", "shared-stem"}
    opened = open_plan(tmp_path / "plan")
    plan = opened.manifest
    assert plan.parent == open_bundle(digits_bundles["whole"]).as_parent()
    assert (plan.partition, lanes_of(plan), [engine.threads for engine in plan.engines]) == ("streams", 3, [2, 1, 1, 4])
    assert plan.tuning is not None
    assert plan.tuning.record.sha256 == sha256_of_file(tmp_path / "plan" / "tuning.json")
    record = read_manifest(tmp_path / "plan" / "tuning.json", TuningReport, kind="tuning", schema_version=1)[0]
    assert record == tuned.report
    assert (plan.tuning.chosen, plan.tuning.tried, plan.tuning.latency_ms) == (chosen.label, 12, 10 / 3)
    images = np.random.default_rng(0).standard_normal((1, 3, 32, 32), np.float32)
    with open_predictor(digits_bundles["whole"]) as predictor, Session.open(tmp_path / "plan") as session:
        expected = predictor.predict(images)
        assert np.abs(session.infer(images) - expected).max() <= 1e-6 * np.abs(expected).max()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan"]


def test_a_split_that_is_no_faster_is_not_taken(digits_bundles: Bundles, tmp_path: Path, invented_times: Times) -> None:
    times = invented_times(lambda plan: 10.0 if most_threads(plan) == 4 else 12.0)
    tuned = tune([digits_bundles["whole"], digits_bundles["streams"]], tmp_path / "plan", options(), time_plan=times)
    assert not tuned.report.chosen.is_split
    assert open_plan(tmp_path / "plan").manifest.partition == "whole"


def test_a_changed_record_is_noticed(digits_bundles: Bundles, tmp_path: Path, invented_times: Times) -> None:
    tune([digits_bundles["streams"]], tmp_path / "plan", options(), time_plan=invented_times(lambda _: 1.0))
    (tmp_path / "plan" / "tuning.json").write_text("{}")
    with pytest.raises(ArtifactError, match="bytes where the manifest says"):
        open_plan(tmp_path / "plan")


def test_what_cannot_be_built_is_left_out_with_the_reason(
    digits_bundles: Bundles, tmp_path: Path, invented_times: Times, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for again and again, and built once."""
    asked = []
    build = workshop.build_plan

    def refuse_cuts(bundle: Path, *args: Any, **kwargs: Any) -> Any:
        asked.append(bundle)
        if len(open_bundle(bundle).manifest.stages) > 1:
            raise EngineError("no such operator")
        return build(bundle, *args, **kwargs)

    monkeypatch.setattr(workshop, "build_plan", refuse_cuts)
    tuned = tune([digits_bundles["whole"]], tmp_path / "plan", options(), time_plan=invented_times(lambda _: 1.0))
    by_bundle = {entry.bundle: (entry.status, entry.note) for entry in tuned.report.tried if entry.bundle != "whole"}
    assert by_bundle == dict.fromkeys(("whole (streams)", "whole (shared-stem)"), ("left out", "no such operator"))
    assert len(asked) == 3


class TestAccuracy:
    """The digits network on the 359 held-out digits: float16 and float32 are equal there, so drops are made by hand."""

    def test_top1_is_that_of_evaluate(
        self, digits_bundles: Bundles, tmp_path: Path, invented_times: Times, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Plans really run here, and four threads on fewer cores get into each other's way.
        pretend_cores(monkeypatch, 1)
        times = invented_times(lambda plan: 5.0 if plan.precision == "fp16" else 9.0)
        given = [digits_bundles["whole"], digits_bundles["half"]]
        tuned = tune(given, tmp_path / "plan", options(data="digits", max_drop=0.0), time_plan=times)
        with open_predictor(digits_bundles["whole"]) as predictor:
            expected = evaluate(predictor, load_labelled("digits", held_out=True)).top1
        assert expected == pytest.approx(100 * 357 / 359)
        assert {entry.top1 for entry in tuned.report.tried} == {expected}
        assert tuned.report.chosen.bundle.startswith("half")

    def test_those_that_lose_too_much_are_refused(
        self, digits_bundles: Bundles, tmp_path: Path, invented_times: Times, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drop_half(monkeypatch)
        times = invented_times(lambda plan: 5.0 if plan.precision == "fp16" else 9.0)
        given = [digits_bundles["whole"], digits_bundles["half"]]
        tuned = tune(given, tmp_path / "plan", options(data="digits", max_drop=0.5), time_plan=times)
        assert tuned.report.chosen.bundle.startswith("whole")
        halves = [entry for entry in tuned.report.tried if entry.bundle.startswith("half")]
        note = "1.00 points of accuracy below the best, over the budget of 0.5"
        assert {(entry.status, entry.note) for entry in halves} == {("not eligible", note)}
        assert {plan.precision for plan in times.asked} == {"fp32"}

    @pytest.mark.parametrize(
        ("max_latency_ms", "precision", "expected_of_others"),
        [
            (10.0, "fp32", ("left out", "a more accurate precision keeps the latency budget")),
            (7.0, "fp16", ("not eligible", "9 ms are over the budget of 7 ms")),
        ],
    )
    def test_the_most_accurate_that_keeps_the_latency(
        self,
        digits_bundles: Bundles,
        tmp_path: Path,
        invented_times: Times,
        monkeypatch: pytest.MonkeyPatch,
        max_latency_ms: float,
        precision: str,
        expected_of_others: tuple[str, str],
    ) -> None:
        drop_half(monkeypatch)
        times = invented_times(lambda plan: 5.0 if plan.precision == "fp16" else 9.0)
        given = [digits_bundles["half"], digits_bundles["whole"]]
        limits = options(data="digits", max_latency_ms=max_latency_ms)
        tuned = tune(given, tmp_path / "plan", limits, time_plan=times)
        assert open_plan(tmp_path / "plan").manifest.precision == precision
        expected = f"{precision} is the most accurate that keeps {max_latency_ms:g} ms"
        assert tuned.report.reasons[0].startswith(expected)
        name = "whole" if precision == "fp16" else "half"
        others = {(entry.status, entry.note) for entry in tuned.report.tried if entry.bundle.startswith(name)}
        assert others == {expected_of_others}

    def test_a_latency_that_nothing_keeps(self, digits_bundles: Bundles, tmp_path: Path, invented_times: Times) -> None:
        times = invented_times(lambda _: 5.0)
        with pytest.raises(
            CheckFailedError, match=r"no candidate keeps the budget; .*, 5 ms are over the budget of 1 ms"
        ):
            tune([digits_bundles["streams"]], tmp_path / "plan", options(max_latency_ms=1.0), time_plan=times)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("max_memory_mib", "expected"), [(None, None), (350, 2.25), (500, 4.0), (150, None)])
def test_memory_is_spent_where_there_is_a_budget_for_it(
    digits_bundles: Bundles, tmp_path: Path, invented_times: Times, max_memory_mib: float | None, expected: float | None
) -> None:
    """More memory is faster by the rule; without a budget nothing is built to take more than it does by default."""

    def factor_of(plan: Plan) -> float:
        return float(plan.build_options.get("memory_factor", 1))

    pytest.importorskip("ncnn")
    times = invented_times(
        lambda plan: 20.0 / factor_of(plan) + len(plan.stages), lambda plan: int(factor_of(plan) * 100 * 2**20)
    )
    asked = TuneOptions(TuningLimits(budget_s=60.0, max_memory_mib=max_memory_mib), ("ncnn",), crossover=False)
    tuned = tune([digits_bundles["whole"]], tmp_path / "plan", asked, time_plan=times)
    assert tuned.report.chosen.memory_factor == expected
    assert open_plan(tmp_path / "plan").manifest.build_options == ({"memory_factor": expected} if expected else {})
    tried = {entry.memory_factor for entry in tuned.report.tried}
    assert tried == ({None} if max_memory_mib is None else {None, 2.25, 4.0})
    notes = {entry.note for entry in tuned.report.tried if entry.status == "not eligible"}
    over = {150: (225, 400), 350: (400,)}.get(max_memory_mib or 0, ())
    assert notes == {f"{peak} MiB are over the budget of {max_memory_mib} MiB" for peak in over}


def drop_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let float16 lose a point of accuracy."""
    from parnet_deploy.tuning import tune as module

    def measured(candidates: Any, *_: Any) -> dict[str, float]:
        return {entry.label: 98.0 if entry.bundle.precision == "fp16" else 99.0 for entry in candidates}

    monkeypatch.setattr(module, "measure_accuracies", measured)


class TestCache:
    """The same question is measured once."""

    def test_asked_again_nothing_is_measured(
        self, digits_bundles: Bundles, tmp_path: Path, invented_times: Times, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when the machine has more to do than before."""
        loads = itertools.count(0.5)
        monkeypatch.setattr("parnet_deploy.bench.machine._load", lambda: next(loads))
        asked = TuneOptions(TuningLimits(budget_s=60.0), ORT, tmp_path / "cache", crossover=False)
        times = invented_times(lambda plan: 10.0 - lanes_of(plan))
        first = tune([digits_bundles["streams"]], tmp_path / "a", asked, time_plan=times)
        count = len(times.asked)
        again = tune([digits_bundles["streams"]], tmp_path / "b", asked, time_plan=times)
        assert (first.is_cached, again.is_cached, len(times.asked)) == (False, True, count)
        assert first.report == again.report
        plans = [open_plan(tmp_path / name).manifest for name in ("a", "b")]
        # ONNX Runtime does not write the same bytes twice.
        assert plans[0].model_copy(update={"engines": ()}) == plans[1].model_copy(update={"engines": ()})
        other = TuneOptions(TuningLimits(budget_s=61.0), ORT, tmp_path / "cache", crossover=False)
        assert not tune([digits_bundles["streams"]], tmp_path / "c", other, time_plan=times).is_cached

    def test_a_damaged_entry_is_measured_again(
        self, digits_bundles: Bundles, tmp_path: Path, invented_times: Times
    ) -> None:
        asked = TuneOptions(TuningLimits(budget_s=60.0), ORT, tmp_path / "cache", crossover=False)
        times = invented_times(lambda _: 1.0)
        tune([digits_bundles["streams"]], tmp_path / "a", asked, time_plan=times)
        (entry,) = (tmp_path / "cache").iterdir()
        content = json.loads(entry.read_text())
        entry.write_text(json.dumps({**content, "tried": "nothing"}))
        assert not tune([digits_bundles["streams"]], tmp_path / "b", asked, time_plan=times).is_cached
        assert json.loads(entry.read_text())["tried"] != "nothing"


def test_the_crossover_is_told_for_the_cores_at_hand_and_predicted_beyond(
    digits_bundles: Bundles, tmp_path: Path, invented_times: Times
) -> None:
    """The whole network takes 8 + 24 / k ms; a stage 2 + 6 / k, and two of them follow each other."""

    def rule(plan: Plan) -> float:
        threads = [engine.threads for engine in plan.engines]
        if len(plan.engines) == 1:
            return 8 + 24 / threads[0]
        return 4 * 8.0 if lanes_of(plan) == 1 else 60 / most_threads(plan)

    asked = TuneOptions(TuningLimits(budget_s=60.0), ORT)
    tuned = tune(
        [digits_bundles["whole"], digits_bundles["streams"]], tmp_path / "plan", asked, time_plan=invented_times(rule)
    )
    crossover = tuned.report.crossover
    assert crossover is not None
    assert (crossover.backend, crossover.whole, crossover.split) == ("onnxruntime", "whole", "streams")
    points = {point.cores: (point.whole_ms, point.split_ms, point.is_measured) for point in crossover.points}
    assert list(points) == [1, 2, 3, 4, 8, 16, 32, 64]
    assert points[2] == (20.0, 30.0, True)
    assert points[4] == (14.0, 15.0, True)
    # Of 8 cores the streams get 3, 3 and 2: the longest 2 + 6 / 2, then the join 2 + 6 / 8.
    assert points[8] == (pytest.approx(11.0), pytest.approx(7.75), False)
    assert points[64] == (pytest.approx(8.375), pytest.approx(2 + 6 / 21 + 2 + 6 / 64), False)
    assert crossover.wins_from == 8
    assert "PREDICTED beyond 4 cores" in crossover.basis


def test_bad_questions(digits_bundles: Bundles, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(OutputExistsError):
        tune([digits_bundles["whole"]], tmp_path / "there", options())
    with pytest.raises(EngineError, match="no backend 'abacus'"):
        tune([digits_bundles["whole"]], tmp_path / "plan", TuneOptions(backends=("abacus",)))
    with pytest.raises(ArtifactError):
        tune([tmp_path / "nothing"], tmp_path / "plan", options())
    other = toy_bundles.make_bundle(tmp_path / "toy", "whole", "fp32", BatchRange())
    with pytest.raises(ArtifactError, match=r"toy: differs from .*whole in network") as caught:
        tune([digits_bundles["whole"], other], tmp_path / "plan", options())
    assert caught.value.remedy is not None
    assert caught.value.remedy.startswith("tune bundles of one network")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "toy"]
