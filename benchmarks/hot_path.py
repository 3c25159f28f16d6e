"""Time what a request costs beside its engines: `python -m benchmarks.hot_path BUNDLE_OR_PLAN ...`.

A bundle is built with the null backend, whose engines do nothing, so that all that is left is our own Python and one
copy of the image into the memory that engines read. Of a plan, the time that its stages took is taken off.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import numpy as np

from parnet_deploy.artifacts.folders import kind_of
from parnet_deploy.engines import build_plan
from parnet_deploy.runtime import Session
from parnet_deploy.runtime.session import Images


@dataclass(frozen=True)
class HotPath:
    """Microseconds of a request of one image, and the memory that it takes and gives back.

    `own` is the median request less its stages and less the copy of the image.
    """

    name: str
    lanes: int
    infer_us: float
    fastest_us: float
    stages_us: float
    copy_us: float
    own_us: float
    traced_peak_bytes: int
    blocks_kept: int


def _median_us(call: Callable[[], object], runs: int) -> tuple[float, float]:
    """Return the median and the least time of a call."""
    times = []
    for _ in range(runs):
        begun = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - begun)
    return median(times) / 1e3, min(times) / 1e3


def _stages_us(session: Session, image: Images, runs: int) -> float:
    """Return the median time from the first stage's start to the last one's end, less what nobody ran in between."""
    busy = []
    for spans in session.profile(image, runs):
        edges = sorted((span.start_ms, span.end_ms) for span in spans)
        total, reached = 0.0, 0.0
        for start, end in edges:
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        busy.append(total * 1e3)
    return median(busy)


def measure(name: str, plan: Path, runs: int) -> HotPath:
    """Measure requests of one image to a plan."""
    with Session.open(plan) as session:
        shape = (1, *session.plan.tensors[session.plan.input].shape)
        image = np.random.default_rng(0).standard_normal(shape, np.float32)
        memory = np.empty_like(image)
        session.warm_up(max(3, runs // 20))
        infer_us, fastest_us = _median_us(lambda: session.infer(image), runs)
        copy_us, _ = _median_us(lambda: np.copyto(memory, image), runs)
        stages_us = _stages_us(session, image, max(1, runs // 10))
        tracemalloc.start()
        session.infer(image)
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        session.infer(image)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        blocks = sys.getallocatedblocks()
        for _ in range(runs):
            session.infer(image)
        kept = sys.getallocatedblocks() - blocks
        lanes = len(set(session.plan.placement.values()))
    own_us = infer_us - stages_us - copy_us
    return HotPath(name, lanes, infer_us, fastest_us, stages_us, copy_us, own_us, peak, kept)


def _profile(plan: Path, runs: int) -> None:
    """Print where the interpreter spends its time."""
    with Session.open(plan) as session:
        image = np.zeros((1, *session.plan.tensors[session.plan.input].shape), np.float32)
        session.warm_up()
        with cProfile.Profile() as profile:
            for _ in range(runs):
                session.infer(image)
    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(20)


def main() -> None:
    """Measure every bundle and plan that is named, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="BUNDLE_OR_PLAN")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--profile", action="store_true", help="also profile the first one by function")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="parnet-hot-path-") as folder:
        plans = {}
        for index, path in enumerate(arguments.paths):
            is_plan = kind_of(path) == "plan"
            plans[str(path)] = path if is_plan else build_plan(path, Path(folder) / str(index), backend="null")
        for name, plan in plans.items():
            results.append(measure(name, plan, arguments.runs))
        if arguments.profile:
            _profile(next(iter(plans.values())), arguments.runs)
    if arguments.json:
        print(json.dumps([asdict(result) for result in results], indent=2))
        return
    print("microseconds per request of one image, medians")
    for result in results:
        print(
            f"{result.name}: {result.lanes} lane(s), infer {result.infer_us:.1f} (fastest {result.fastest_us:.1f}) = "
            f"stages {result.stages_us:.1f} + copy {result.copy_us:.1f} + own {result.own_us:.1f}; "
            f"{result.traced_peak_bytes} bytes at the peak, {result.blocks_kept} blocks kept"
        )


if __name__ == "__main__":
    main()
