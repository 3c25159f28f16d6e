"""Candidates and trials that nobody measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from parnet_deploy.artifacts.schemas import Precision
from parnet_deploy.planning.arrangement import Arrangement
from parnet_deploy.tuning.candidates import BundleTraits, Candidate
from parnet_deploy.tuning.halving import Measurement, Trial


@pytest.fixture(scope="session")
def make_candidate() -> Callable[..., Candidate]:
    """A function (name, split=False) that returns a candidate."""

    def make(name: str, *, split: bool = False, precision: Precision = "fp32", batch: int = 1) -> Candidate:
        bundle = BundleTraits(name, precision, batch, stages=4 if split else 1, width=3 if split else 1)
        return Candidate(bundle, "null", Arrangement(2, "side by side" if split else "in turn"))

    return make


@pytest.fixture(scope="session")
def make_trial(make_candidate: Callable[..., Candidate]) -> Callable[..., Trial]:
    """A function (name, milliseconds of each round) that returns a trial which is still running."""

    def make(name: str, rounds_ms: Sequence[float], **kwargs: object) -> Trial:
        return Trial(make_candidate(name, **kwargs), [Measurement(ms) for ms in rounds_ms])

    return make
