"""`python -m tools.mutation_score`: tabulate what `mutmut run` found, and name the mutants that survived."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

MUTANTS = Path("mutants")
# Exit codes of the tests of a mutant, as mutmut keeps them: pytest's own, its "no tests" mark, and signals.
_SURVIVED, _NO_TESTS = 0, 33


def outcome_of(exit_code: int | None) -> str:
    """Return what an exit code means; a mutant that never ends is caught by its time limit."""
    if exit_code is None:
        return "not run"
    if exit_code == _SURVIVED:
        return "survived"
    return "no tests" if exit_code == _NO_TESTS else "caught"


def outcomes(folder: Path) -> dict[str, dict[str, str]]:
    """Return the outcome of every mutant by file, from the records that mutmut leaves."""
    found = {}
    for path in sorted(folder.rglob("*.py.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        if codes:
            name = path.relative_to(folder).as_posix().removesuffix(".meta")
            found[name] = {mutant: outcome_of(code) for mutant, code in codes.items()}
    return found


def score(counts: Counter[str]) -> float | None:
    """Return the share of the mutants that were run and were caught; None if none was run."""
    ran = counts["caught"] + counts["survived"] + counts["no tests"]
    return counts["caught"] / ran if ran else None


def table(found: dict[str, dict[str, str]]) -> str:
    """Return the counts of every file as Markdown, and the sum."""
    rows = ["| file | mutants | caught | survived | no tests | not run | score |", "| --- |" + " ---: |" * 6]
    total: Counter[str] = Counter()
    for name, mutants in found.items():
        counts = Counter(mutants.values())
        total += counts
        rows.append(_row(f"`{name}`", counts))
    return "\n".join([*rows, _row("all", total)])


def _row(name: str, counts: Counter[str]) -> str:
    columns = (sum(counts.values()), *(counts[key] for key in ("caught", "survived", "no tests", "not run")))
    found = score(counts)
    return f"| {name} | {' | '.join(map(str, columns))} | {'-' if found is None else f'{found:.1%}'} |"


def main() -> int:
    """Print the table and the survivors; return 1 below 90%."""
    found = outcomes(MUTANTS)
    if not found:
        sys.exit("no mutants here: run `make mutation`")
    sys.stdout.write(table(found) + "\n")
    for mutants in found.values():
        for mutant, outcome in mutants.items():
            if outcome in ("survived", "no tests"):
                sys.stdout.write(f"{outcome}: {mutant}\n")
    total = sum((Counter(mutants.values()) for mutants in found.values()), Counter())
    return int((score(total) or 0.0) < 0.9)


if __name__ == "__main__":
    sys.exit(main())
