"""What the tests' last lines say: how much was tried on the CUDA driver in host memory, and what waits for a GPU.

`tests/conftest.py` takes the hook in, because under pytest-xdist only that one is loaded where the lines are printed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

# The property by which a test hands its counts on: {adapter: {what: number}}, "" for what needs no adapter.
CUDA_SIM = "cuda_sim"


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print both sections, each where there is something to say."""
    passed = terminalreporter.stats.get("passed", [])
    skipped = terminalreporter.stats.get("skipped", [])
    tried = [value for report in passed for name, value in report.user_properties if name == CUDA_SIM]
    missing = _reasons(skipped, "cuda_sim")
    if tried or missing:
        terminalreporter.section("CUDA driver in host memory")
        for line in (*_table(tried), *missing):
            terminalreporter.write_line(line)
    waiting = _reasons(skipped, "gpu")
    if waiting:
        terminalreporter.section("skipped tests that need a GPU")
        for line in waiting:
            terminalreporter.write_line(line)


def _table(tried: list[dict[str, dict[str, int]]]) -> list[str]:
    """Return a line for everything that was counted, with a column for all and one for each adapter."""
    columns: dict[str, Counter[str]] = {"all": Counter()}
    for by_adapter in tried:
        for adapter, counts in by_adapter.items():
            columns["all"].update(counts)
            if adapter:
                columns.setdefault(adapter, Counter()).update(counts)
    names = ["all", *sorted(columns.keys() - {"all"})]
    widths = {name: max(8, len(name)) + 2 for name in names}
    lines = ["".join(f"{name:>{widths[name]}}" for name in names)]
    for what in sorted(columns["all"]):
        numbers = "".join(f"{columns[name][what] or '':>{widths[name]}}" for name in names)
        lines.append(f"{numbers}  {what}")
    return lines if tried else []


def _reasons(skipped: list[Any], marker: str) -> list[str]:
    """Return a line for every reason for which tests with a marker were skipped, with their number."""
    marked = [report for report in skipped if marker in getattr(report, "keywords", ())]
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in marked)
    return [f"{count:>10}  skipped: {reason}" for reason, count in reasons.most_common()]
