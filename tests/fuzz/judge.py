"""Hold the end of a case to the rules."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from xml.etree import ElementTree

from tests.fuzz.case import After, AtEvent, Case, End, Outcome

# A command may need this much more memory than the imported libraries do.
PEAK_BYTES = 3 * 2**30

_ENDS: dict[int, End] = {0: "done", 1: "failed", 2: "refused", 130: "interrupted", -2: "interrupted", -9: "killed"}

# Runs `inspect` on what was written and returns how that ended.
Inspect = Callable[[str], Outcome]
Snapshot = dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """How a case ended and every rule that it broke; `later` is what a later command made of the output."""

    end: str
    violations: tuple[str, ...]
    later: str = ""
    has_remedy: bool = True


def snapshot(folder: Path) -> Snapshot:
    """Return a hash for every file below a folder, and the kind of everything else there."""
    found: Snapshot = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            found[str(path.relative_to(folder))] = _digest(path)
    return found


def _digest(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "special"
    return sha256(path.read_bytes()).hexdigest()


def _below(path: str, places: tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(place + "/") for place in places)


def _is_partial(path: str) -> bool:
    return any(part.startswith(".") and ".partial-" in part for part in Path(path).parts)


def judge(case: Case, outcome: Outcome, before: Snapshot, folder: Path, inspect: Inspect) -> Verdict:
    """Return the end and what is wrong about it."""
    after = snapshot(folder)
    if outcome.hung:
        return Verdict("hung", (f"hang: killed after {outcome.seconds:.0f} s",))
    end = _ENDS.get(outcome.exit_code)
    if end is None:
        return Verdict(f"exit {outcome.exit_code}", (f"crash: exit code {outcome.exit_code}", *_said(outcome)))
    violations = [*_said(outcome)]
    # What strikes in the middle may also come too late.
    allowed = case.ends | ({"done"} if isinstance(case.fault, AtEvent | After) else frozenset())
    if end not in allowed:
        violations.append(f"end: {end}, not {' or '.join(sorted(allowed))}")
    if end in ("refused", "failed"):
        violations += _named(outcome, case)
    if end == "done" and "--json" in case.argv:
        violations += _json(outcome)
    if outcome.peak_bytes > PEAK_BYTES:
        violations.append(f"memory: {outcome.peak_bytes / 2**30:.1f} GiB")
    violations += _lost(case, end, before, after)
    later = ""
    if not violations and end in ("done", "killed", "interrupted"):
        later, wrong = _later(case, end, before, after, folder, inspect)
        violations += wrong
    if not violations and end == "done":
        wrong_answer = case.accept(folder, outcome)
        violations += [f"accepted: {wrong_answer}"] if wrong_answer else []
    return Verdict(end, tuple(violations), later, end != "refused" or "remedy:" in outcome.stderr)


def _said(outcome: Outcome) -> list[str]:
    wrong = []
    for name, text in (("stderr", outcome.stderr), ("stdout", outcome.stdout)):
        if "Traceback (most recent call last)" in text or "Exception ignored" in text:
            last = next((line for line in reversed(text.splitlines()) if line and not line.startswith(" ")), "")
            wrong.append(f"traceback on {name}: {last[:200]}")
    return wrong


def _named(outcome: Outcome, case: Case) -> list[str]:
    wrong = []
    if "error:" not in outcome.stderr and "Error" not in outcome.stderr:
        wrong.append(f"unnamed: stderr names no error: {outcome.stderr[:200]!r}")
    if outcome.exit_code == 2 and outcome.stdout and case.fault is None:
        wrong.append(f"stdout: {outcome.stdout[:100]!r} beside an error")
    if len(outcome.stderr) > 20_000:
        wrong.append(f"unnamed: {len(outcome.stderr)} characters of error")
    return wrong


def _json(outcome: Outcome) -> list[str]:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(outcome.stdout, parse_constant=refuse)
    except ValueError as error:
        return [f"json: stdout is not JSON ({error})"]
    return []


def _lost(case: Case, end: End, before: Snapshot, after: Snapshot) -> list[str]:
    """Say which of the user's files changed, and what is left where nothing should be."""
    # A kill, or an interrupt of the cleaning up, may also leave temporary files, which no command reads.
    spared = case.leaves
    # An interrupt may strike when the output is whole already.
    may_write = end in ("done", "killed", "interrupted") or (end == "failed" and case.outputs)
    wrong = []
    for path in sorted(before.keys() | after.keys()):
        was, now = before.get(path), after.get(path)
        if was == now or _below(path, spared) or (may_write and _below(path, case.outputs)):
            continue
        if now is not None and was is None:
            if end in ("killed", "interrupted") and _is_partial(path):
                continue
            wrong.append(f"left over: {path}")
        else:
            wrong.append(f"lost: {path} was {'changed' if now else 'removed'}")
    return wrong[:3]


def _later(
    case: Case, end: End, before: Snapshot, after: Snapshot, folder: Path, inspect: Inspect
) -> tuple[str, list[str]]:
    """Ask a later command about the output: it must take what is whole and refuse what is not."""
    changed = {path for path in after.keys() | before.keys() if before.get(path) != after.get(path)}
    if not any(_below(path, case.outputs) for path in changed):
        return ("" if end == "done" else "untouched"), []
    artefact = case.outputs[0]
    if artefact not in after:
        return "absent", ["lost: the output is gone"] if artefact in before else []
    if artefact == "report" or artefact.startswith("hub") or artefact.endswith((".json", ".xml")):
        return ("whole", []) if _is_whole(folder / artefact) else ("torn", ["half-written: accepted by nobody"])
    found = inspect(artefact)
    if found.exit_code == 0:
        return "whole", []
    # A folder changes by one rename; a checkpoint is two files, and a strike can come between their renames.
    if found.exit_code == 2 and end != "done" and artefact.endswith(".safetensors") and not _said(found):
        return "refused", []
    return "torn", [f"later: inspect of the output ends with {found.exit_code}: {found.stderr[-200:]!r}"]


def _is_whole(path: Path) -> bool:
    """Read what `inspect` does not know."""
    if path.suffix == ".xml":
        ElementTree.parse(path)
    elif path.suffix == ".json":
        json.loads(path.read_bytes())
    else:
        names = (
            ("report.json", "report.md", "report.html")
            if path.name == "report"
            else ("model.safetensors", "config.json")
        )
        json.loads((path / names[0 if path.name == "report" else 1]).read_bytes())
        return all((path / name).stat().st_size > 0 for name in names)
    return True
