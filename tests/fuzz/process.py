"""Run commands in forks of a process that has everything imported, or in processes of their own, and watch them."""

from __future__ import annotations

import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.fuzz.case import After, Fault, Outcome
from tests.fuzz.faults import apply_fault

_SIGNALS = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT}
_MAX_OUTPUT_BYTES = 16 * 2**20


def import_everything() -> None:
    """Import what the commands import, so that no case has to wait for it. No thread may be started here."""
    import matplotlib.figure
    import onnxsim
    import sklearn.datasets
    import yaml

    import parnet_deploy.checks.checkpoint_predictor
    import parnet_deploy.checks.gate
    import parnet_deploy.checks.publish
    import parnet_deploy.cli.main
    import parnet_deploy.engines.onnxruntime
    import parnet_deploy.export
    import parnet_deploy.fusion
    import parnet_deploy.models.hub
    import parnet_deploy.training.loop

    del matplotlib, onnxsim, parnet_deploy, sklearn, yaml


@dataclass
class Running:
    """A command that was started: its process, the pipes it writes to, and what came out of them so far."""

    pid: int
    pipes: tuple[int, int]
    started: float
    fault: Fault | None
    texts: dict[int, bytearray] = field(default_factory=dict)


def start(
    argv: tuple[str, ...],
    folder: Path,
    fault: Fault | None = None,
    *,
    is_process: bool = False,
    before: Callable[[], None] = lambda: None,
) -> Running:
    """Start a command in `folder`; `before` is called in its process first."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(argv, folder, fault, before, out_write, err_write, is_process=is_process)
    os.close(out_write)
    os.close(err_write)
    return Running(pid, (out_read, err_read), started, fault, {out_read: bytearray(), err_read: bytearray()})


def _become(
    argv: tuple[str, ...],
    folder: Path,
    fault: Fault | None,
    before: Callable[[], None],
    out: int,
    err: int,
    *,
    is_process: bool,
) -> NoReturn:
    """Be the command; never return."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, err)):
            os.dup2(source, target)
        os.closerange(3, 256)
        os.chdir(folder)
        before()
        apply_fault(fault, folder)
        if is_process:
            os.execv(sys.executable, [sys.executable, "-m", "parnet_deploy", *argv])
        from parnet_deploy.cli.entry import main

        sys.argv = ["parnet-deploy", *argv]
        main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
    except KeyboardInterrupt:  # struck where the command had ended
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            traceback.print_exc()
            code = 1
    os._exit(code)


def wait(running: Running, limit_s: float) -> Outcome:
    """Read what a command writes until it has ended; kill it, and all that it started, after `limit_s`."""
    deadline = running.started + limit_s
    strike_at = running.started + running.fault.seconds if isinstance(running.fault, After) else None
    hung = False
    end = os.pidfd_open(running.pid)
    with selectors.DefaultSelector() as selector:
        for pipe in (*running.pipes, end):
            selector.register(pipe, selectors.EVENT_READ)
        while end in selector.get_map():
            now = time.monotonic()
            if isinstance(running.fault, After) and strike_at is not None and now >= strike_at:
                os.kill(running.pid, _SIGNALS[running.fault.action])
                strike_at = None
            if now >= deadline:
                hung = True
                os.killpg(running.pid, signal.SIGKILL)
                deadline = now + limit_s
            until = min(deadline, strike_at or deadline)
            for key, _ in selector.select(max(0.0, until - now)):
                _read(running, key.fd, selector)
        _, status, usage = os.wait4(running.pid, 0)
        seconds = time.monotonic() - running.started
        with suppress(ProcessLookupError):  # what it started and left behind
            os.killpg(running.pid, signal.SIGKILL)
        for pipe in running.pipes:
            while pipe in selector.get_map():
                _read(running, pipe, selector)
    for descriptor in (*running.pipes, end):
        os.close(descriptor)
    stdout, stderr = (running.texts[pipe].decode(errors="replace") for pipe in running.pipes)
    code = os.waitstatus_to_exitcode(status)
    return Outcome(code, stdout, stderr, seconds, hung=hung, peak_bytes=usage.ru_maxrss * 1024)


def _read(running: Running, pipe: int, selector: selectors.BaseSelector) -> None:
    data = os.read(pipe, 2**16) if pipe in running.texts else b""
    if not data:
        selector.unregister(pipe)
    elif len(running.texts[pipe]) < _MAX_OUTPUT_BYTES:
        running.texts[pipe] += data


def run(
    argv: tuple[str, ...],
    folder: Path,
    fault: Fault | None = None,
    *,
    limit_s: float,
    is_process: bool = False,
    before: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a command to its end."""
    return wait(start(argv, folder, fault, is_process=is_process, before=before), limit_s)
