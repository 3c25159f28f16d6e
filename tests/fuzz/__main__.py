"""`python -m tests.fuzz`: run the cases and print how many there were of each kind and how they ended."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.fuzz import process
from tests.fuzz.case import Case
from tests.fuzz.kinds.all import all_cases
from tests.fuzz.originals import Originals
from tests.fuzz.runner import Result, make_originals, run_cases

ENDS = ("refused", "failed", "done", "interrupted", "killed")
# What must not be, by the first word of a violation.
FAULTS = ("traceback", "hang", "crash", "accepted", "later", "half-written", "lost", "left over")


def main() -> int:
    """Run the cases that were asked for; return 1 if any of them broke a rule."""
    arguments = _arguments()
    console = Console(stderr=True)
    start = time.monotonic()
    process.import_everything()
    with tempfile.TemporaryDirectory(prefix="parnet-fuzz-") as name:
        base = Path(name)
        base.chmod(0o755)
        (base / "originals").mkdir()
        originals = make_originals(base / "originals")
        cases = [case for case in all_cases(originals) if _is_wanted(case.kind, case.name, arguments)]
        cases = cases if arguments.per_kind is None else sample(cases, arguments.per_kind)
        # In any order, so that shards are equally busy, and so that what an interrupt leaves is a fair sample.
        random.Random(0).shuffle(cases)
        results = _run(cases, originals, base, arguments, console)
    seconds = time.monotonic() - start
    if arguments.json:
        sys.stdout.write(json.dumps({"seconds": seconds, "results": [asdict(result) for result in results]}) + "\n")
    else:
        _print(results, seconds)
    return int(any(result.violations for result in results))


def _run(
    cases: list[Case], originals: Originals, base: Path, arguments: argparse.Namespace, console: Console
) -> list[Result]:
    """Run the cases, showing broken ones as they come; an interrupt ends with the results so far."""
    results: list[Result] = []
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        suppress(KeyboardInterrupt),
    ):
        task = progress.add_task("trying bad input", total=len(cases))
        for result in run_cases(cases, originals, base, arguments.jobs):
            results.append(result)
            progress.advance(task)
            if result.violations:
                text = f"{result.kind}: {result.name}: {'; '.join(result.violations)}"
                progress.console.print(text, soft_wrap=True, markup=False, highlight=False)
                if arguments.verbose:
                    progress.console.print(result.stderr, markup=False, highlight=False)
    if len(results) < len(cases):
        console.print(f"interrupted after {len(results)} of {len(cases)} cases")
    return results


def sample(cases: list[Case], count: int) -> list[Case]:
    """Return at most `count` cases of each kind, evenly spread over those there are."""
    by_kind: dict[str, list[Case]] = {}
    for case in cases:
        by_kind.setdefault(case.kind, []).append(case)
    return [found[len(found) * i // count] for found in by_kind.values() for i in range(min(count, len(found)))]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--kind", action="append", help="only kinds whose name begins so; repeatable")
    parser.add_argument("--name", default="", help="only cases whose name holds this")
    parser.add_argument("--per-kind", type=int, metavar="N", help="only N cases of each kind, evenly spread")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="cases at a time; default: cores"
    )
    parser.add_argument("--json", action="store_true", help="print every result as JSON")
    parser.add_argument("--verbose", action="store_true", help="print what broken cases wrote to stderr")
    return parser.parse_args()


def _is_wanted(kind: str, name: str, arguments: argparse.Namespace) -> bool:
    return arguments.name in name and (not arguments.kind or any(kind.startswith(k) for k in arguments.kind))


def _print(results: list[Result], seconds: float) -> None:
    table = Table("kind", "tried", *ENDS, "broken", box=None)
    for kind in sorted({result.kind for result in results}):
        table.add_row(kind, *_row([result for result in results if result.kind == kind]))
    table.add_row("all", *_row(results), style="bold")
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(table)
    words = Counter(violation.split(":")[0].split(" on ")[0] for result in results for violation in result.violations)
    named = {word: words.pop(word, 0) for word in FAULTS}
    console.print(", ".join(f"{count} {word}" for word, count in (named | words).items()), highlight=False)
    later = Counter(result.later for result in results if result.end in ("killed", "interrupted"))
    shown = ", ".join(f"{count} {what or 'small files whole'}" for what, count in later.most_common())
    console.print(f"outputs after a kill or an interrupt: {shown or 'none tried'}", highlight=False)
    without = sum(not result.has_remedy for result in results)
    console.print(f"{len(results)} bad inputs in {seconds:.0f} s; {without} errors named no remedy", highlight=False)


def _row(results: list[Result]) -> list[str]:
    ends = Counter(result.end for result in results)
    broken = sum(bool(result.violations) for result in results)
    return [str(len(results)), *(str(ends[end] or "") for end in ENDS), str(broken)]


if __name__ == "__main__":
    sys.exit(main())
