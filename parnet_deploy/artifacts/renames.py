"""Renames that replace nothing, or that exchange two paths: each one step of the file system, where it has them."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

# linux/fcntl.h and linux/fs.h; see renameat2(2).
_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2
# Kernels and file systems that have no such rename.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder; raise `FileExistsError` if something is at `target`, also if it only just came.

    Where the file system cannot tell in one step, it is looked at first.
    """
    if _rename(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; return False where the file system cannot."""
    return _rename(one, other, _EXCHANGE)


def _rename(source: Path, target: Path, flags: int) -> bool:
    """Call renameat2; return False where there is none, and raise `OSError` if it fails."""
    call = _renameat2()
    if call is None:
        return False
    # As `os.rename` does, for whoever watches.
    sys.audit("os.rename", str(source), str(target), -1, -1)
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _renameat2() -> Any:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        function.restype = ctypes.c_int
    return function
