"""Commands that are interrupted or killed: at every change of a file, at moments in between, and while they import."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.case import Action, After, AtEvent, Case, End
from tests.fuzz.originals import WRITERS, Originals, Writer
from tests.fuzz.runner import copy_paths

_MOMENTS = 3
# Changes beyond so many are sampled.
_MOST_CHANGES = 8
_ENDS: dict[str, frozenset[End]] = {"kill": frozenset({"killed"}), "interrupt": frozenset({"interrupted"})}
_STARTING_S = (0.02, 0.1, 0.2, 0.5, 1.2, 2.5)


def cases(originals: Originals) -> Iterator[Case]:
    """Yield every writer, on fresh ground and over an older output, struck at every point."""
    for writer in WRITERS:
        measured = originals.writers[writer.name]
        numbers = range(1, measured.events + 1)
        step = max(1, -(-measured.events // _MOST_CHANGES))
        for number in numbers[::step]:
            yield _case(writer, originals, f"at change {number}", AtEvent(number, "kill"), forced=False)
            yield _case(writer, originals, f"at change {number}", AtEvent(number, "interrupt"), forced=False)
            # Forced over an older one there are a few changes more.
            yield _case(writer, originals, f"at change {number + 3}", AtEvent(number + 3, "kill"), forced=True)
            if number % 2:
                yield _case(writer, originals, f"at change {number + 3}", AtEvent(number + 3, "interrupt"), forced=True)
        for moment in range(_MOMENTS):
            seconds = round(measured.seconds * (moment + 0.5) / _MOMENTS, 3)
            yield _case(
                writer,
                originals,
                f"at moment {moment + 1} of {_MOMENTS}",
                After(seconds, "kill"),
                forced=moment % 2 == 1,
            )
            yield _case(
                writer,
                originals,
                f"at moment {moment + 1} of {_MOMENTS}",
                After(seconds, "interrupt"),
                forced=moment % 2 == 0,
            )
    for seconds in _STARTING_S:
        yield _starting(seconds, "kill")
        # What strikes before Python itself has started is not in the command's hands.
        yield _starting(seconds + 3, "interrupt")


def _case(writer: Writer, originals: Originals, when: str, fault: AtEvent | After, *, forced: bool) -> Case:
    extra = ("--force",) if forced and writer.name != "junit" else ()
    kind = "killed" if fault.action == "kill" else "interrupted"
    return Case(
        kind,
        f"{writer.name}{' over an older one' if forced else ''}: {when}",
        (*writer.argv, *extra),
        writer.uses,
        (lambda folder: copy_paths(originals.folder, writer.outputs, folder)) if forced else (lambda _folder: None),
        writer.outputs + writer.leaves,
        writer.leaves,
        _ENDS[fault.action],
        fault,
    )


def _starting(seconds: float, action: Action) -> Case:
    """Strike a process of its own, which spends its first second on imports."""
    writer = next(writer for writer in WRITERS if writer.name == "fuse")
    kind = "killed" if action == "kill" else "interrupted"
    return Case(
        kind,
        f"a process of its own, after {seconds} s",
        writer.argv,
        writer.uses,
        outputs=writer.outputs,
        ends=_ENDS[action],
        fault=After(seconds, action),
        is_process=True,
    )
