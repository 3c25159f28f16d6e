"""`python -m tests.soak`: a network whole and split, very many inferences, and the curve of the memory they take."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.soak.soak import WARM_UP, Soak, soak

CHECKPOINT = Path(__file__).parents[2] / "models" / "parnet_nano_digits.safetensors"
MAX_GROWTH = 0.02
_BARS = "▁▂▃▄▅▆▇█"


def main() -> int:
    """Build two plans, soak them, print what was seen; return 1 if anything grew, was left or was wrong."""
    arguments = _arguments()
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="parnet-soak-") as name:
        plans = build_plans(Path(name))
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("inferences", total=arguments.count)
            result = soak(
                plans, arguments.count, arguments.threads, lambda done, _: progress.update(task, completed=done)
            )
    Console(width=None if sys.stdout.isatty() else 160).print(
        _table(result, arguments.threads), _curve(result), sep="\n"
    )
    faults = faults_of(result, arguments.count)
    for fault in faults:
        console.print(f"[bold red]broken:[/] {fault}")
    return int(bool(faults))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--count", type=int, default=50_000, help="inferences; default: 50,000")
    parser.add_argument("--threads", type=int, default=8, help="threads that ask; default: 8")
    return parser.parse_args()


def build_plans(folder: Path) -> list[Path]:
    """Make the plans of the shipped network, whole and split, in processes of their own: no torch in this one."""
    steps = [
        ["fuse", CHECKPOINT, "-o", folder / "fused.safetensors"],
        ["export", folder / "fused.safetensors", "-o", folder / "whole", "--dynamic-batch", "1:1:4"],
        ["export", folder / "fused.safetensors", "-o", folder / "split", "--split-streams"],
        *(["build", folder / cut, "-o", folder / f"plan_{cut}", "--threads", "2"] for cut in ("whole", "split")),
    ]
    for step in steps:
        command = [sys.executable, "-m", "parnet_deploy", *map(str, step)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return [folder / "plan_whole", folder / "plan_split"]


def faults_of(result: Soak, count: int, max_growth: float = MAX_GROWTH) -> list[str]:
    """Say what is wrong with a soak's counts."""
    faults = []
    if result.inferences != count:
        faults.append(f"{result.inferences} inferences, not {count}")
    if result.wrong:
        faults.append(f"{result.wrong} answers were not the first ones")
    if result.growth > max_growth:
        faults.append(f"memory grew by {result.growth:.1%}, more than {max_growth:.0%}")
    if result.after.threads > result.before.threads:
        faults.append(f"{result.after.threads - result.before.threads} threads left")
    if result.after.files > result.before.files:
        faults.append(f"{result.after.files - result.before.files} files left open")
    return faults


def _table(result: Soak, threads: int) -> Table:
    start = result.curve[int(len(result.curve) * WARM_UP)]
    rows = {
        "inferences": f"{result.inferences:,} from {threads} threads in {result.seconds:.0f} s",
        "plans opened and closed": f"{result.opened:,}",
        "requests refused": f"{result.refused:,}",
        "answers that differed": f"{result.wrong:,}",
        "memory": f"{_mib(result.before.rss_bytes)}, {_mib(start)} after warm-up, {_mib(result.curve[-1])} at the end",
        "with what is kept free": f"{_mib(result.most_kept_bytes)} at most",
        "growth after warm-up": f"{result.growth:+.2%}",
        "threads": f"{result.before.threads} before, {result.most_threads} at most, {result.after.threads} after",
        "open files": f"{result.before.files} before, {result.after.files} after",
    }
    table = Table(box=None, show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def _curve(result: Soak) -> str:
    """Draw the memory over the inferences, from nothing to the most."""
    most = max(result.curve)
    low = min(result.curve)
    scale = max(most - low, 1)
    bars = "".join(_BARS[round((size - low) / scale * (len(_BARS) - 1))] for size in result.curve)
    return f"memory, {_mib(low)} to {_mib(most)}\n{bars}"


if __name__ == "__main__":
    sys.exit(main())
