"""What strikes a command while it runs, applied in the command's own process."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fuzz.case import AtEvent, Fault, FileSizeLimit, Nobody

NOBODY = 65534
# Python's audit events that change the file system, and where their paths are
# (docs.python.org/3/library/audit_events).
_CHANGES = {
    "os.rename": (0, 1),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.chmod": (0,),
    "os.link": (0, 1),
}
# Changes that take no room: a full disk lets them pass.
_ROOMLESS = {"os.remove", "os.rmdir", "os.chmod", "os.rename"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def watch_changes(folder: Path, call: Callable[[str], None]) -> None:
    """Call `call` with the event's name before every change of a file below `folder`, for the rest of the process."""
    root = str(folder.resolve())

    def is_inside(path: Any) -> bool:
        # What is removed by a folder's descriptor is part of a tree that is removed.
        return not isinstance(path, str | bytes | os.PathLike) or os.path.abspath(os.fsdecode(path)).startswith(root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and isinstance(flags, int) and flags & _WRITING and is_inside(path):
                call(event)
        elif event in _CHANGES and any(is_inside(arguments[index]) for index in _CHANGES[event]):
            call(event)

    sys.addaudithook(hook)


def apply_fault(fault: Fault | None, folder: Path) -> None:
    """Prepare the calling process for its fault; those that come from outside are not for here."""
    if isinstance(fault, AtEvent):
        _strike_at(fault, folder)
    elif isinstance(fault, FileSizeLimit):
        # A write beyond it fails with EFBIG, because Python ignores SIGXFSZ.
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.size_bytes, fault.size_bytes))
    elif isinstance(fault, Nobody) and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def _strike_at(fault: AtEvent, folder: Path) -> None:
    seen = 0

    def strike(event: str) -> None:
        nonlocal seen
        if fault.action == "disk full" and event in _ROOMLESS:
            return
        seen += 1
        if fault.action == "disk full" and seen >= fault.number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if seen == fault.number:
            signal.raise_signal(signal.SIGKILL if fault.action == "kill" else signal.SIGINT)

    watch_changes(folder, strike)
