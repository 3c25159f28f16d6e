"""Measure candidates so that time goes to the good ones: successive halving, in turn, within a budget.

Karnin, Koren and Somekh, "Almost Optimal Exploration in Multi-Armed Bandits" (ICML 2013): everybody gets a short turn,
the better half a longer one, until few are left, who take several turns. All of one round are measured one after
another, so that slow changes of the machine reach all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from parnet_deploy.errors import ParNetError
from parnet_deploy.tuning.candidates import Candidate

# How many are left for the last rung, and how many turns they take there; a split needs several to prove itself.
FINALISTS = 4
FINAL_ROUNDS = 5
# Nobody is dropped who was this near the best: more than what one short turn is off by.
MARGIN = 0.05
# The part of the time that the last rung gets.
_FINAL_SHARE = 0.5
_LEAST_S, _MOST_S = 0.2, 10.0


@dataclass(frozen=True)
class Measurement:
    """One turn of a candidate: the median latency of its requests, and what opening it took."""

    latency_ms: float
    cold_start_ms: float = 0.0
    peak_bytes: int = 1


@dataclass
class Trial:
    """A candidate and its turns in the latest rung that it took part in."""

    candidate: Candidate
    measurements: list[Measurement] = field(default_factory=list)
    failure: str | None = None
    dropped_after: int | None = None

    @property
    def rounds_ms(self) -> tuple[float, ...]:
        """The latency of each turn."""
        return tuple(measurement.latency_ms for measurement in self.measurements)

    @property
    def latency_ms(self) -> float:
        """The median of the turns; infinite without one."""
        return median(self.rounds_ms) if self.measurements else math.inf

    @property
    def peak_bytes(self) -> int:
        """The largest resident size of a process that ran it; 0 without a turn."""
        return max((measurement.peak_bytes for measurement in self.measurements), default=0)

    @property
    def is_running(self) -> bool:
        """Whether it is still in the race."""
        return self.failure is None and self.dropped_after is None


# Measure a candidate for so many seconds; raise `ParNetError` if it cannot be.
Measure = Callable[[Candidate, float], Measurement]
# Told the candidate, the number of the rung from 1, the round from 1, and how many seconds are left.
Progress = Callable[[Candidate, int, int, float], None]
Score = Callable[[Trial], float]


def successive_halving(
    candidates: Sequence[Candidate],
    measure: Measure,
    *,
    budget_s: float,
    clock: Callable[[], float],
    score: Score = lambda trial: trial.latency_ms,
    on_progress: Progress = lambda *_: None,
) -> list[Trial]:
    """Return every candidate's trial; those that are still running at the end have been compared in several rounds.

    The best candidate that is no split always stays, for splits to be compared with. When the time is up, what was
    measured so far counts: every candidate gets its first turn, whatever the budget.
    """
    race = _Race([Trial(candidate) for candidate in candidates], measure, budget_s, clock, score, on_progress)
    race.run()
    return race.trials


@dataclass
class _Race:
    trials: list[Trial]
    measure: Measure
    budget_s: float
    clock: Callable[[], float]
    score: Score
    on_progress: Progress
    # What a turn takes beside the seconds that are asked for: starting a process and opening a plan. Learnt on the way.
    overhead_s: float = 1.0

    def run(self) -> None:
        self.begun = self.clock()
        rungs = max(0, math.ceil(math.log2(max(1, len(self.trials)) / FINALISTS)))
        for rung in range(1, rungs + 1):
            self._run_rung(rung, rounds=1, share_s=self._left_s() * (1 - _FINAL_SHARE) / (rungs - rung + 1))
            self._drop(rung)
        # Also a race of few starts with one short round, which learns how long a turn takes.
        if rungs == 0:
            self._run_rung(1, rounds=1, share_s=0.0)
        self._run_rung(rungs + 1 + (rungs == 0), rounds=FINAL_ROUNDS, share_s=self._left_s())

    def _left_s(self) -> float:
        return max(0.0, self.budget_s - (self.clock() - self.begun))

    def _run_rung(self, rung: int, *, rounds: int, share_s: float) -> None:
        running = [trial for trial in self.trials if trial.is_running]
        if not running:
            return
        seconds = min(_MOST_S, max(_LEAST_S, share_s / (rounds * len(running)) - self.overhead_s))
        fresh: dict[int, list[Measurement]] = {id(trial): [] for trial in running}
        for number in range(1, rounds + 1):
            if rung > 1 and self._left_s() <= 0:
                break
            for trial in running:
                if trial.failure is None:
                    self.on_progress(trial.candidate, rung, number, self._left_s())
                    self._take_turn(trial, seconds, fresh[id(trial)])
        for trial in running:
            # Turns of different length are not mixed; a rung that the time did not reach changes nothing.
            if trial.failure is None and fresh[id(trial)]:
                trial.measurements = fresh[id(trial)]

    def _take_turn(self, trial: Trial, seconds: float, into: list[Measurement]) -> None:
        begun = self.clock()
        try:
            into.append(self.measure(trial.candidate, seconds))
        except ParNetError as error:
            trial.failure = error.what
            return
        self.overhead_s = max(0.0, self.clock() - begun - seconds)

    def _drop(self, rung: int) -> None:
        ranked = sorted((trial for trial in self.trials if trial.is_running), key=self.score)
        kept = max(FINALISTS, math.ceil(len(ranked) / 2))
        best_single = next((trial for trial in ranked if not trial.candidate.is_split), None)
        for place, trial in enumerate(ranked):
            is_near = self.score(trial) <= (1 + MARGIN) * self.score(ranked[0])
            if place >= kept and not is_near and trial is not best_single:
                trial.dropped_after = rung
