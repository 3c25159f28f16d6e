"""Measure what LoadGen, the session and its threads add to a query: plans whose engines do nothing.

    python benchmarks/harness_overhead.py -o benchmarks/results/harness_overhead.md

Makes the graphs of a network by the commands that a user would type, builds them with the null backend, and sends
single queries by LoadGen, each round alone in a process. What is left of a latency is the harness: LoadGen's call into
Python, the copy of the image, the signals from lane to lane, the copy of the logits. For comparison LoadGen also calls
a function that does nothing at all.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from parnet_deploy import __version__
from parnet_deploy.artifacts.measurements import LatencyStatistics
from parnet_deploy.bench.loadgen import run_scenario
from parnet_deploy.bench.machine import describe_machine
from parnet_deploy.bench.processes import run_round
from parnet_deploy.bench.scenarios import settings_for
from parnet_deploy.bench.statistics import latency_statistics

TOOL = Path(sys.executable).with_name("parnet-deploy")
# The claim that this checks: less than this in the middle of the queries.
BOUND_US = 50.0
NETWORKS = {"parnet_nano": "32x32", "parnet_l": "224x224"}
PARTITIONS = {"whole": "one lane", "streams": "three lanes"}


def build_plans(folder: Path) -> dict[str, Path]:
    """Build a plan of the null backend for each network and partition."""
    plans = {}
    for network, size in NETWORKS.items():
        weights, fused = folder / f"{network}.safetensors", folder / f"{network}_fused.safetensors"
        run("init", network, "-o", weights)
        run("fuse", weights, "-o", fused)
        for partition, lanes in PARTITIONS.items():
            bundle, plan = folder / f"{network}_{partition}", folder / f"plan_{network}_{partition}"
            run("export", fused, "-o", bundle, "--partition", partition)
            run("build", bundle, "-o", plan, "--backend", "null")
            plans[f"{network}, {size}, {lanes}"] = plan
    return plans


def run(*arguments: str | Path) -> None:
    """Run a command of the tool and stop where it fails."""
    subprocess.run([TOOL, *map(str, arguments)], stdout=subprocess.DEVNULL, check=True)


def loadgen_alone(duration_ms: int) -> LatencyStatistics:
    """Return the latencies of a function that does nothing."""
    images = np.zeros((16, 3, 32, 32), np.float32)
    settings = settings_for("single-stream", duration_ms=duration_ms)
    measured = run_scenario(lambda _: None, images, settings, batch_size=1, expected_latency_ms=0.005)
    return latency_statistics(measured.latencies_ns)


def row(name: str, rounds: list[LatencyStatistics]) -> str:
    """Format medians of the rounds, in microseconds, and the range of the rounds' medians."""
    figures = [
        median(getattr(entry, field) for entry in rounds) * 1e3 for field in ("min_ms", "p50_ms", "p90_ms", "p99_ms")
    ]
    medians = [entry.p50_ms * 1e3 for entry in rounds]
    verdict = "yes" if median(medians) < BOUND_US else "no"
    cells = (name, *(f"{value:.1f}" for value in figures), f"{min(medians):.1f} to {max(medians):.1f}", verdict)
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Measure, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="Markdown file to write.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration-ms", type=int, default=2000)
    options = parser.parse_args()
    machine = describe_machine()
    settings = settings_for("single-stream", duration_ms=options.duration_ms)
    rounds: dict[str, list[LatencyStatistics]] = {
        "LoadGen and an empty function": [loadgen_alone(options.duration_ms) for _ in range(options.rounds)]
    }
    with tempfile.TemporaryDirectory() as folder:
        plans = build_plans(Path(folder))
        for _ in range(options.rounds):
            for name, plan in plans.items():
                rounds.setdefault(name, []).append(run_round(plan, name, settings).round.latency)
    load = "unknown" if machine.load_before is None else f"{machine.load_before:.1f}"
    lines = [
        "# Overhead of the harness",
        "",
        f"Microseconds a query, single-stream, medians of {options.rounds} rounds of {options.duration_ms / 1000:g} s,"
        " each alone in a process. Engines do nothing.",
        "",
        f"| what | fastest | p50 | p90 | p99 | p50 of the rounds | p50 under {BOUND_US:g} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        *(row(name, found) for name, found in rounds.items()),
        "",
        f"parnet-deploy {__version__}, {machine.processor}, {machine.usable_cores} usable cores, load {load} before the"
        f" first run, {machine.python}, numpy {machine.packages['numpy']},"
        f" LoadGen {machine.packages['mlcommons-loadgen']}.",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.output is not None:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
