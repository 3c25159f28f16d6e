"""What a case is: a command, the folder it runs in, what strikes it, and how it may end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# done: exit 0. refused: exit 2 and a named error. failed: exit 1, a check that failed. interrupted: exit 130.
End = Literal["done", "refused", "failed", "interrupted", "killed"]
Action = Literal["kill", "interrupt", "disk full"]


@dataclass(frozen=True)
class AtEvent:
    """Strike just before the `number`-th change of a file below the case's folder; a full disk stays full."""

    number: int
    action: Action


@dataclass(frozen=True)
class After:
    """Send a signal so many seconds after the start."""

    seconds: float
    action: Literal["kill", "interrupt"]


@dataclass(frozen=True)
class FileSizeLimit:
    """Let no file grow beyond so many bytes, also one that native code writes."""

    size_bytes: int


@dataclass(frozen=True)
class SmallDisk:
    """Run in a file system that has so many bytes left beyond the case's own files; only root can mount one."""

    free_bytes: int


@dataclass(frozen=True)
class Nobody:
    """Run without the right to write where the permissions do not say so: root becomes another user."""


@dataclass(frozen=True)
class Rival:
    """Run a second command on the same output, at the same time or while the first one is held at a rename.

    `argv` is the rival's. With `at_rename`, the first command stops before its `at_rename`-th rename until the rival
    has ended.
    """

    argv: tuple[str, ...]
    at_rename: int | None = None


Fault = AtEvent | After | FileSizeLimit | SmallDisk | Nobody | Rival


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `exit_code` is negative for a signal; `peak_bytes` is the largest resident memory."""

    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    hung: bool = False
    peak_bytes: int = 0
    rival: Outcome | None = None


@dataclass(frozen=True)
class Case:
    """One bad input.

    `uses` names the originals that are copied into the case's folder, where the command runs with relative paths.
    `prepare` then spoils them. `outputs` is what the command may write; `leaves` may stay behind a command that did
    not end well. `accept` looks at a case that ended with exit 0 and says what is wrong about that, if anything.
    """

    kind: str
    name: str
    argv: tuple[str, ...]
    uses: tuple[str, ...] = ()
    prepare: Callable[[Path], None] = lambda _folder: None
    outputs: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    ends: frozenset[End] = frozenset({"refused"})
    fault: Fault | None = None
    accept: Callable[[Path, Outcome], str | None] = lambda _folder, _outcome: None
    # The command runs as a process of its own and not in a fork of one that has everything imported.
    is_process: bool = field(default=False)


REFUSED: frozenset[End] = frozenset({"refused"})
REFUSED_OR_DONE: frozenset[End] = frozenset({"refused", "done"})
