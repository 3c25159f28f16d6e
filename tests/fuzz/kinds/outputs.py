"""Outputs that cannot or must not be written: they exist, belong to the user, or there is no room or no right."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.case import REFUSED_OR_DONE, AtEvent, Case, End, Fault, FileSizeLimit, Nobody, SmallDisk
from tests.fuzz.faults import NOBODY
from tests.fuzz.kinds.forgery import Prepare, write
from tests.fuzz.originals import PARTS, WRITERS, Originals, Writer
from tests.fuzz.runner import can_mount, copy_paths

# Bytes after which a file cannot grow: within headers, within weights, near the end.
_LIMITS = (0, 100, 60_000, 500_000)
_FREE = (0, 65_536)


def cases(originals: Originals) -> Iterator[Case]:
    """Yield every writer with every obstacle."""
    for writer in WRITERS:
        yield from _existing(writer)
        yield from _forbidden(writer)
        yield from _full(writer, originals)


def _keep(first: str) -> Prepare:
    return lambda folder: write(folder, first, b"the user's own")


def _keep_folder(first: str) -> Prepare:
    def prepare(folder: Path) -> None:
        (folder / first / "notes").mkdir(parents=True)
        (folder / first / "notes" / "thesis.txt").write_text("the only copy")

    return prepare


def _link(first: str) -> Prepare:
    def prepare(folder: Path) -> None:
        (folder / "precious").mkdir()
        (folder / "precious" / "thesis.txt").write_text("the only copy")
        (folder / first).symlink_to("precious/thesis.txt" if "." in first else "precious")

    return prepare


def _dangle(first: str) -> Prepare:
    return lambda folder: (folder / first).symlink_to("nowhere/at/all")


def _existing(writer: Writer) -> Iterator[Case]:
    """Yield what may be there already: refused, unless it is a file or link of the output's own name and forced."""
    first, kind = writer.outputs[0], "output exists"
    forced = (*writer.argv, "--force")
    yield Case(kind, f"{writer.name}: a folder is there", writer.argv, writer.uses, _keep_folder(first))
    if writer.name == "junit":  # files of JUnit replace older ones without being told to
        return
    for name, prepare in (("a file", _keep(first)), ("a link", _link(first)), ("a dangling link", _dangle(first))):
        yield Case(kind, f"{writer.name}: {name} is there", writer.argv, writer.uses, prepare)
    yield Case(kind, f"{writer.name}: a folder of others is there, forced", forced, writer.uses, _keep_folder(first))
    if len(writer.outputs) > 1:
        yield Case(kind, f"{writer.name}: the card is there", writer.argv, writer.uses, _keep(writer.outputs[1]))
    for name, prepare in (("a file", _keep(first)), ("a link", _link(first))):
        if "." in first:
            ends = frozenset[End]({"done"})
            yield Case(
                kind,
                f"{writer.name}: {name} is there, forced",
                forced,
                writer.uses,
                prepare,
                writer.outputs,
                writer.leaves,
                ends,
            )
        else:
            yield Case(kind, f"{writer.name}: {name} is there, forced", forced, writer.uses, prepare)


def _with_output(writer: Writer, output: str) -> tuple[str, ...]:
    return tuple(output if part == writer.outputs[0] else part for part in writer.argv)


def _forbidden(writer: Writer) -> Iterator[Case]:
    suffix = Path(writer.outputs[0]).suffix
    places = {
        "below a file": f"file/o{suffix}",
        "a name too long": "o" * 300 + suffix,
        "a path too long": "/".join(["o" * 200] * 30) + suffix,
        "nothing": "",
        "here": ".",
        "above": "..",
        # Never a real device: run as root, a mistake would replace it for the whole machine.
        "a pipe": "pipe",
        "a name with a null": f"o\0{suffix}",
        "the input": PARTS[writer.uses[0]][0] if writer.uses else ".",
    }

    def prepare(folder: Path) -> None:
        (folder / "file").write_text("a file")
        os.mkfifo(folder / "pipe")

    for name, output in places.items():
        argv = _with_output(writer, output)
        for extra in ((), ("--force",)):
            if writer.name == "junit" and extra:
                continue
            shown = f"{writer.name}: {name}{' forced' if extra else ''}"
            if "\0" not in output:  # no command line can hold one
                yield Case("impossible output", shown, (*argv, *extra), writer.uses, prepare)
    yield from _read_only(writer)


def _read_only(writer: Writer) -> Iterator[Case]:
    def close(folder: Path) -> None:
        if os.geteuid() == 0:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        folder.chmod(0o555)

    def hide(folder: Path) -> None:
        close(folder)
        folder.chmod(0o755)
        for name in writer.uses:
            for path in (path for path in folder.iterdir() if path.name.startswith(name)):
                path.chmod(0)

    yield Case("read-only folder", writer.name, writer.argv, writer.uses, close, fault=Nobody())
    if writer.uses:
        yield Case("unreadable input", writer.name, writer.argv, writer.uses, hide, fault=Nobody())


def _full(writer: Writer, originals: Originals) -> Iterator[Case]:
    """Let the disk be full at each change, for Python; and at several sizes, also for what native code writes."""
    numbers = _spread(originals.writers[writer.name].events, 4)
    faults: list[tuple[str, Fault]] = [(f"at change {number}", AtEvent(number, "disk full")) for number in numbers]
    faults += [(f"beyond {limit} bytes", FileSizeLimit(limit)) for limit in _LIMITS]
    faults += [(f"{free} bytes free", SmallDisk(free)) for free in _FREE if can_mount()]
    older = _finished(writer, originals)
    for name, fault in faults:
        for shown, argv, prepare in (
            (writer.name, writer.argv, lambda _folder: None),
            (f"{writer.name} over an older one", (*writer.argv, "--force"), older),
        ):
            if writer.name == "junit" and prepare is older:
                continue
            everything = writer.outputs + writer.leaves
            yield Case(
                "no space left",
                f"{shown}: {name}",
                argv,
                writer.uses,
                prepare,
                everything,
                writer.leaves,
                REFUSED_OR_DONE,
                fault,
            )


def _finished(writer: Writer, originals: Originals) -> Prepare:
    """Return a function that puts what the writer wrote before into a case's folder."""
    return lambda folder: copy_paths(originals.folder, writer.outputs, folder)


def _spread(count: int, parts: int) -> list[int]:
    """Return numbers from 1 to `count`, evenly spread, with both ends."""
    return sorted({1 + (count - 1) * part // (parts - 1) for part in range(parts)})
