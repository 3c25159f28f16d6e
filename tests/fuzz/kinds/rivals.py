"""Two commands that write the same output at once: one whole artefact is left, and no one's is overwritten unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.case import REFUSED_OR_DONE, Case, End, Outcome, Rival
from tests.fuzz.originals import WRITERS, Originals, Writer
from tests.fuzz.runner import copy_paths

_HELD_AT = (None, 1, 2)
_ENDS = frozenset[End]({"refused", "done", "failed"})


def cases(originals: Originals) -> Iterator[Case]:
    """Yield every writer against itself, forced or not, at the same time and with one held before a rename."""
    for writer in WRITERS:
        for held_at in _HELD_AT:
            when = "at once" if held_at is None else f"held at rename {held_at}"
            yield _case(writer, originals, when, held_at, forced=False)
            if writer.name != "junit":
                yield _case(writer, originals, when, held_at, forced=True)


def _case(writer: Writer, originals: Originals, when: str, held_at: int | None, *, forced: bool) -> Case:
    extra = ("--force",) if forced else ()
    argv = (*writer.argv, *extra)
    return Case(
        "two writers",
        f"{writer.name}{' forced' if forced else ''}: {when}",
        argv,
        writer.uses,
        (lambda folder: copy_paths(originals.folder, writer.outputs, folder)) if forced else (lambda _folder: None),
        writer.outputs + writer.leaves,
        writer.outputs + writer.leaves,
        REFUSED_OR_DONE,
        Rival(argv, held_at),
        accept=lambda folder, outcome: _one_whole(writer, folder, outcome, forced=forced),
    )


def _one_whole(writer: Writer, _folder: Path, outcome: Outcome, *, forced: bool) -> str | None:
    rival = outcome.rival
    assert rival is not None
    if rival.exit_code not in (0, 2) or "Traceback" in rival.stderr:
        return f"the rival ended with {rival.exit_code}: {rival.stderr[-300:]}"
    if not forced and writer.name != "junit" and outcome.exit_code == rival.exit_code == 0:
        return "both wrote the same output, and none was told to replace the other's"
    return None
