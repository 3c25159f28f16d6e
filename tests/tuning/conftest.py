"""Candidates and trials that nobody measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import Plan, Precision
from parnet_deploy.planning.arrangement import Arrangement
from parnet_deploy.tuning.candidates import BundleTraits, Candidate
from parnet_deploy.tuning.halving import Measurement, Trial
from parnet_deploy.tuning.worker import TimeResult


@pytest.fixture(scope="session")
def make_candidate() -> Callable[..., Candidate]:
    """A function (name, split=False) that returns a candidate."""

    def make(name: str, *, split: bool = False, precision: Precision = "fp32", batch: int = 1) -> Candidate:
        bundle = BundleTraits(name, precision, batch, stages=4 if split else 1, width=3 if split else 1)
        return Candidate(bundle, "null", Arrangement(2, "side by side" if split else "in turn"))

    return make


@pytest.fixture(scope="session")
def make_trial(make_candidate: Callable[..., Candidate]) -> Callable[..., Trial]:
    """A function (name, milliseconds and MiB of each round) that returns a trial which is still running."""

    def make(name: str, rounds_ms: Sequence[float], peaks_mib: Sequence[int] = (), **kwargs: object) -> Trial:
        peaks = peaks_mib or [1] * len(rounds_ms)
        turns = [Measurement(ms, peak_bytes=peak * 2**20) for ms, peak in zip(rounds_ms, peaks, strict=True)]
        return Trial(make_candidate(name, **kwargs), turns)

    return make


@pytest.fixture(scope="session")
def digits_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The shipped network of digits, fused: whole, cut into streams by export, and whole in float16."""
    from parnet_deploy.cli.main import run_app

    source = Path(__file__).parents[2] / "models" / "parnet_nano_digits.safetensors"
    folder = tmp_path_factory.mktemp("digits")
    fused = folder / "fused.safetensors"
    paths = {name: folder / name for name in ("whole", "streams", "half")}
    steps: list[list[str | Path]] = [
        ["fuse", source, "-o", fused],
        ["export", fused, "-o", paths["whole"]],
        ["export", fused, "-o", paths["streams"], "--split-streams"],
        ["export", fused, "-o", paths["half"], "--precision", "fp16"],
    ]
    for step in steps:
        assert run_app([str(argument) for argument in step]) == 0
    return paths


class InventedTimes:
    """Times plans by a rule instead of a clock; `asked` are the manifests that it was asked for."""

    def __init__(self, rule: Callable[[Plan], float], peak_bytes: Callable[[Plan], int] = lambda _: 1000) -> None:
        self.rule = rule
        self.peak_bytes = peak_bytes
        self.asked: list[Plan] = []

    def __call__(self, plan: Path, seconds: float, cores: int | None) -> TimeResult:  # noqa: ARG002
        assert seconds > 0
        manifest = open_plan(plan).manifest
        self.asked.append(manifest)
        # A stage takes 8 ms on one core, and 2 of them cannot be shared.
        stage_ms = {engine.stage: 2 + 6 / engine.threads for engine in manifest.engines}
        return TimeResult(
            latency_ms=self.rule(manifest), cold_start_ms=5, peak_bytes=self.peak_bytes(manifest), stage_ms=stage_ms
        )


@pytest.fixture(scope="session")
def invented_times() -> type[InventedTimes]:
    """The class of timers by rule."""
    return InventedTimes
