"""The order of turns, and that what is finished is not done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.cases import Case, Contender, Effort
from benchmarks.harness import Place, Step, call_worker, collect, run_steps, steps_of
from benchmarks.records import Run, Turn
from benchmarks.worker import time_requests
from parnet_deploy.bench.statistics import latency_statistics

CASE = Case("parnet_pico", 64, 1)
EFFORT = Effort(rounds=2, least_s=0.05, least_requests=3, most_s=5.0)
A, B = Contender("a", "plan", "ours"), Contender("b", "plan", "peer")
Call = Callable[[Step, Place], Turn]


def run_of(ms: float) -> Run:
    latency = latency_statistics([round(ms * 1e6)] * 3)
    return Run(latency=latency, process_ms=1, open_ms=1, first_ms=1, peak_bytes=1, difference=None, details={})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place with what the first preparation leaves behind."""
    found = Place(tmp_path / "work", tmp_path / "tools")
    found.case_folder(CASE).mkdir(parents=True)
    (found.case_folder(CASE) / "case.json").write_text('{"gflop": 2.0, "parameters": 10}')
    return found


def steps() -> list[Step]:
    return list(steps_of([(CASE, EFFORT)], lambda _: (A, B)))


def answers(monkeypatch: pytest.MonkeyPatch, answer: Call) -> list[tuple[str, int]]:
    """Let steps be answered without a process; return the list of those that were taken."""
    taken: list[tuple[str, int]] = []

    def call(step: Step, place: Place) -> Turn:
        taken.append((step.contender.name, step.turn))
        return answer(step, place)

    monkeypatch.setattr(harness, "call_worker", call)
    return taken


def test_runs_are_found_again_when_the_machine_has_more_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set()
    for load in (0.1, 7.0):
        monkeypatch.setattr("parnet_deploy.bench.machine._load", lambda load=load: load)
        harness.run_key.cache_clear()
        keys.add(harness.run_key())
    assert len(keys) == 1


def test_a_benchmark_waits_for_the_load_of_what_ran_before() -> None:
    loads, slept, said = [1.9, 1.2, 0.5], list[float](), list[str]()
    assert harness.wait_for_quiet(2, said.append, load=lambda: loads.pop(0), sleep=slept.append) == 0.5
    assert slept == [5, 5]
    assert said == ["waiting for the load of 1.9 to fall to 0.5"]


def test_a_busy_machine_is_measured_all_the_same() -> None:
    slept: list[float] = []
    assert harness.wait_for_quiet(2, lambda _: None, load=lambda: 3.0, sleep=slept.append) == 3.0
    assert sum(slept) == 180


def test_all_are_prepared_and_then_take_turns() -> None:
    expected = [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [(step.contender.name, step.turn) for step in steps()] == expected


def test_only_what_is_missing_is_done(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_late(step: Step, _: Place) -> Turn:
        if (step.contender, step.turn) == (B, 1):
            raise KeyboardInterrupt
        return Turn(run=run_of(5 if step.contender == A else 7)) if step.turn >= 0 else Turn()

    answers(monkeypatch, fail_late)
    with pytest.raises(KeyboardInterrupt):
        run_steps(steps(), place, until=None, log=lambda _: None)
    (found,) = collect([(CASE, EFFORT)], lambda _: (A, B), place)
    assert found.rounds == 1
    taken = answers(monkeypatch, lambda *_: Turn(run=run_of(9)))
    assert run_steps(steps(), place, until=None, log=lambda _: None)
    assert taken == [("b", 1)]
    (found,) = collect([(CASE, EFFORT)], lambda _: (A, B), place)
    medians = {entry.name: [run.latency.p50_ms for run in entry.runs] for entry in found.contenders}
    assert (found.rounds, found.gflop, medians) == (2, 2.0, {"a": [5.0, 5.0], "b": [7.0, 9.0]})


@pytest.mark.parametrize("turn", [-1, 0])
def test_who_cannot_run_gets_no_further_turns_and_holds_nobody_up(
    place: Place, monkeypatch: pytest.MonkeyPatch, turn: int
) -> None:
    def answer(step: Step, _: Place) -> Turn:
        if (step.contender, step.turn) == (A, turn):
            return Turn(skipped="not here")
        return Turn(run=run_of(1)) if step.turn >= 0 else Turn()

    taken = answers(monkeypatch, answer)
    logged: list[str] = []
    assert run_steps(steps(), place, until=None, log=logged.append)
    assert [entry for entry in taken if entry[0] == "a"] == [("a", number) for number in range(-1, turn + 1)]
    assert "    left out: not here" in logged
    (found,) = collect([(CASE, EFFORT)], lambda _: (A, B), place)
    assert found.rounds == 2
    assert [(entry.skipped, len(entry.runs)) for entry in found.contenders] == [("not here", 0), (None, 2)]


def test_it_stops_when_the_time_is_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(harness.time, "monotonic", lambda: next(clock))
    taken = answers(monkeypatch, lambda step, _: Turn(run=run_of(1)) if step.turn >= 0 else Turn())
    assert not run_steps(steps(), place, until=2.5, log=lambda _: None)
    assert len(taken) == 3
    assert collect([(CASE, EFFORT)], lambda _: (A, B), place) == ()


def test_requests_are_timed_until_the_effort_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.worker.time.monotonic", lambda: now[0])

    def request(seconds: float) -> int:
        now[0] += seconds
        return round(seconds * 1e9)

    effort = Effort(rounds=1, least_s=1.0, least_requests=5, most_s=20.0)
    assert len(time_requests(lambda: request(0.01), effort)) in (100, 101)
    assert len(time_requests(lambda: request(1.0), effort)) == 5
    assert len(time_requests(lambda: request(15.0), effort)) == 3
    assert time_requests(lambda: request(4.0), effort) == [4_000_000_000] * 5


def test_a_process_that_fails_gives_a_reason(place: Place) -> None:
    step = Step(CASE, EFFORT, Contender("missing", "no_such_contender", "peer"), 0)
    assert "no_such_contender" in str(call_worker(step, place).skipped)


def test_a_plan_and_a_plain_export_of_one_network_are_measured(tmp_path: Path) -> None:
    """In real processes: what they are prepared from has the same weights, so they answer the same numbers."""
    place = Place(tmp_path / "work", tmp_path / "tools")
    ours = Contender("ours", "plan", "ours", {"backend": "onnxruntime", "partition": "streams"})
    plain = Contender("plain", "onnxruntime_plain", "peer", {"form": "fused"})
    no_tool = Contender("ncnn", "ncnn_plain", "peer", {"form": "fused", "precision": "fp32"})
    contenders = (ours, plain, no_tool)
    effort = Effort(1, 0.02, 3, 1.0)
    assert run_steps(list(steps_of([(CASE, effort)], lambda _: contenders)), place, until=None, log=lambda _: None)
    (found,) = collect([(CASE, effort)], lambda _: contenders, place)
    assert [entry.skipped for entry in found.contenders] == [None, None, "pnnx is not there: make pnnx"]
    for entry in found.contenders[:2]:
        (run,) = entry.runs
        assert run.difference is not None
        assert run.difference < 1e-5
        assert run.latency.count >= 3
    assert 0.01 < found.gflop < 0.1
