"""Run cases, some shards at a time, each case in a folder and a process of its own."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz import process
from tests.fuzz.case import Case, Nobody, Outcome, Rival, SmallDisk
from tests.fuzz.faults import NOBODY, watch_changes
from tests.fuzz.judge import Verdict, judge, snapshot
from tests.fuzz.originals import WRITERS, Measured, Originals, write_inputs

# Far more than any case takes: a machine may be busy with other things.
LIMIT_S = 300.0


@dataclass(frozen=True)
class Result:
    """What became of a case; the messages are kept where a rule was broken or no remedy is named."""

    kind: str
    name: str
    end: str
    violations: tuple[str, ...]
    later: str
    has_remedy: bool
    seconds: float
    stderr: str = ""


def make_originals(folder: Path) -> Originals:
    """Make every original by the command line, and count what each command changes on the way."""
    write_inputs(folder)
    measured = {}
    for writer in WRITERS:
        counter = folder / "events"

        def count(path: Path = counter) -> None:
            path.write_bytes(b"")
            handle = os.open(path, os.O_WRONLY | os.O_APPEND)
            watch_changes(folder, lambda _event: os.write(handle, b"."))

        outcome = process.run(writer.argv, folder, limit_s=LIMIT_S, before=count)
        if outcome.exit_code != 0:
            raise RuntimeError(f"{' '.join(writer.argv)} ended with {outcome.exit_code}: {outcome.stderr}")
        measured[writer.name] = Measured(outcome.seconds, counter.stat().st_size)
        counter.unlink()
    return Originals(folder, measured)


def run_case(case: Case, originals: Originals, folder: Path) -> Result:
    """Run one case in `folder`, which must not exist, and remove it."""
    folder.mkdir(mode=0o755)
    inside = folder / "case"
    try:
        inside.mkdir(mode=0o755)
        if isinstance(case.fault, SmallDisk):
            _mount(inside)
        originals.copy(case.uses, inside)
        case.prepare(inside)
        if isinstance(case.fault, SmallDisk):
            _shrink(inside, case.fault.free_bytes)
        before = snapshot(inside)
        outcome = _run(case, inside)

        def inspect(artefact: str) -> Outcome:
            return process.run(("inspect", artefact, "--no-measure"), inside, limit_s=LIMIT_S)

        verdict = judge(case, outcome, before, inside, inspect)
        return _result(case, outcome, verdict)
    finally:
        if isinstance(case.fault, SmallDisk):
            subprocess.run(["umount", str(inside)], check=False)
        # A worker that an interrupt has ended a moment ago may still be removing files of its own.
        while folder.exists():
            with suppress(FileNotFoundError):
                shutil.rmtree(folder)


def _result(case: Case, outcome: Outcome, verdict: Verdict) -> Result:
    return Result(
        case.kind,
        case.name,
        verdict.end,
        verdict.violations,
        verdict.later,
        verdict.has_remedy,
        outcome.seconds,
        outcome.stderr[-3000:] if verdict.violations or not verdict.has_remedy else "",
    )


def _run(case: Case, folder: Path) -> Outcome:
    before = _private_settings(folder.parent)
    if isinstance(case.fault, Rival):
        return _run_both(case, case.fault, folder, before)
    if isinstance(case.fault, Nobody):
        os.chown(folder.parent, NOBODY, NOBODY) if os.geteuid() == 0 else None
    return process.run(case.argv, folder, case.fault, limit_s=LIMIT_S, is_process=case.is_process, before=before)


def _private_settings(folder: Path) -> Callable[[], None]:
    def before() -> None:
        os.environ.update(HOME=str(folder), XDG_CACHE_HOME=str(folder / "cache"), MPLCONFIGDIR=str(folder / "mpl"))

    return before


def _run_both(case: Case, rival: Rival, folder: Path, before: Callable[[], None]) -> Outcome:
    """Run two commands; the first one may be held at a rename until the second has ended."""
    gate = folder.parent / "gate"
    held = folder.parent / "held"

    def hold() -> None:
        before()
        seen = 0

        def wait_at(event: str) -> None:
            nonlocal seen
            seen += event == "os.rename"
            if event == "os.rename" and seen == rival.at_rename:
                held.touch()
                while not gate.exists():
                    time.sleep(0.005)

        if rival.at_rename is not None:
            watch_changes(folder, wait_at)

    first = process.start(case.argv, folder, before=hold)
    deadline = time.monotonic() + LIMIT_S
    while rival.at_rename is not None and not held.exists() and time.monotonic() < deadline:
        if os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        time.sleep(0.005)
    second = process.start(rival.argv, folder, before=before)
    ended = process.wait(second, LIMIT_S)
    gate.touch()
    outcome = process.wait(first, LIMIT_S + ended.seconds)
    return Outcome(**{**vars(outcome), "rival": ended})


def can_mount() -> bool:
    """Tell whether a small file system can be mounted here."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    tried = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return tried.returncode == 0


def _mount(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "none", str(folder)], check=True)


def _shrink(folder: Path, free_bytes: int) -> None:
    status = os.statvfs(folder)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used + free_bytes}", str(folder)], check=True)


def run_cases(cases: Sequence[Case], originals: Originals, base: Path, jobs: int) -> Iterator[Result]:
    """Run all cases in `jobs` processes and yield each result as it comes."""
    read, write = os.pipe()
    shards = []
    for shard in range(jobs):
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _shard(cases[shard::jobs], originals, base / f"shard{shard}", write)
        shards.append(pid)
    os.close(write)
    try:
        with os.fdopen(read) as lines:
            for line in lines:
                content = json.loads(line)
                yield Result(**{**content, "violations": tuple(content["violations"])})
    except BaseException:
        for pid in shards:
            os.kill(pid, signal.SIGTERM)
        raise
    finally:
        ends = [os.waitpid(pid, 0)[1] for pid in shards]
    if any(ends):
        raise RuntimeError("a shard of the cases did not end well")


def _shard(cases: Sequence[Case], originals: Originals, folder: Path, write: int) -> None:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for case in cases:
            try:
                result = run_case(case, originals, folder)
            except Exception as error:  # of the harness itself: the case is at fault, and is shown
                where = traceback.format_exc()[-3000:]
                result = Result(case.kind, case.name, "harness", (f"harness: {error!r}",), "", True, 0.0, where)
                shutil.rmtree(folder, ignore_errors=True)
            # One write below PIPE_BUF is whole; longer ones of several shards could mix.
            line = json.dumps(asdict(result)) + "\n"
            os.write(write, (line if len(line) < 4000 else json.dumps(asdict(_short(result))) + "\n").encode())
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def _short(result: Result) -> Result:
    return Result(
        **{
            **asdict(result),
            "violations": tuple(v[:300] for v in result.violations[:3]),
            "stderr": result.stderr[-1200:],
        }
    )


def copy_paths(source: Path, names: Sequence[str], target: Path) -> None:
    """Copy files and folders by name."""
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            shutil.copyfile(source / name, target / name)
