"""Ctrl-C where Python cannot raise it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_SCRIPT = """
import os, signal, sys, time
import parnet_deploy.cli.main as command
from parnet_deploy.cli.entry import main

# What a shell starts in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

{definitions}

def run():
    {struck}
    time.sleep(60)
    sys.exit(0)

command.main = run
main()
"""

_DESTRUCTOR = "class Struck:\n    def __del__(self):\n        raise KeyboardInterrupt"
_FORK = "def struck():\n    raise KeyboardInterrupt\n\nos.register_at_fork(after_in_parent=struck)"


@pytest.mark.parametrize(
    ("definitions", "struck"),
    [(_DESTRUCTOR, "Struck()"), (_FORK, "os.fork() or os._exit(0)")],
    ids=["destructor", "fork"],
)
def test_an_interrupt_that_python_cannot_raise_is_raised_a_moment_later(definitions: str, struck: str) -> None:
    script = _SCRIPT.format(definitions=definitions, struck=struck)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_another_error_that_python_cannot_raise_is_printed_as_ever() -> None:
    definitions = "class Struck:\n    def __del__(self):\n        raise ZeroDivisionError('nought')"
    script = _SCRIPT.format(definitions=definitions, struck="Struck(); sys.exit(3)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 3
    assert "Exception ignored in: <function Struck.__del__" in done.stderr
    assert "ZeroDivisionError: nought" in done.stderr
