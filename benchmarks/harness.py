"""Run the benchmark: every contender in a process of its own, in turn; what is finished is kept.

A run is a file below `WORK/runs/KEY`, where the key stands for the machine, the versions and the code that is measured.
Started again, the benchmark makes only the runs that are missing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import parnet_deploy
from benchmarks.cases import Case, Contender, Effort, contenders_for
from benchmarks.records import CaseResult, ContenderResult, Turn
from parnet_deploy.artifacts.files import replacing_file, sha256_of_file
from parnet_deploy.bench.machine import describe_machine

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "openvino",
    "ncnn",
    "numpy",
    "onnx",
    "onnxscript",
)
# A run that takes longer has hung; ParNet-XL at 320 pixels and batch 32 takes about two minutes.
_PATIENCE_S = 1800
# Of each core: more, and others are at work on the machine. It is looked at every five seconds, for three minutes.
QUIET_LOAD = 0.25
_QUIET_WITHIN_S, _LOOK_S = 180, 5

Log = Callable[[str], None]


@dataclass(frozen=True)
class Place:
    """Where files go: `work` for what can be made again, `tools` for programs that were fetched."""

    work: Path
    tools: Path

    def case_folder(self, case: Case) -> Path:
        """Return the folder of what a case's contenders share."""
        return self.work / "cases" / case.name

    def turn_path(self, case: Case, contender: Contender, turn: int) -> Path:
        """Return the file of one run."""
        return self.work / "runs" / run_key() / case.name / contender.slug / f"{turn}.json"


@dataclass(frozen=True)
class Step:
    """One thing to do: prepare a contender (`turn` is -1) or give it its turn."""

    case: Case
    effort: Effort
    contender: Contender
    turn: int


def versions() -> dict[str, str]:
    """Return the versions of what takes part."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def run_key() -> str:
    """Return what runs must have in common to be compared: machine, versions and the code that is measured."""
    root = Path(parnet_deploy.__file__).parent
    here = Path(__file__).parent
    sources = sorted([*root.rglob("*.py"), *here.glob("contenders/*.py"), here / "worker.py", here / "networks.py"])
    code = [sha256_of_file(path) for path in sources]
    machine = describe_machine().model_dump(exclude={"load_before"})
    content = json.dumps([machine, versions(), code], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def steps_of(cases: Sequence[tuple[Case, Effort]], contenders: Callable[[Case], Sequence[Contender]]) -> Iterator[Step]:
    """Yield everything there is to do, in order: of each case the preparations, then A B C, A B C, and so on."""
    for case, effort in cases:
        for turn in range(-1, effort.rounds):
            for contender in contenders(case):
                yield Step(case, effort, contender, turn)


def wait_for_quiet(
    cores: int,
    log: Log,
    *,
    load: Callable[[], float] = lambda: os.getloadavg()[0],
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Wait until the machine has been quiet for about a minute, which is what its load tells; return the load.

    So the load of a benchmark before this one is not taken for somebody else's. Where it does not fall within three
    minutes, others are at work, and the page will say so.
    """
    found, quiet = load(), QUIET_LOAD * cores
    if found > quiet:
        log(f"waiting for the load of {found:.1f} to fall to {quiet:g}")
    for _ in range(0, _QUIET_WITHIN_S, _LOOK_S):
        if found <= quiet:
            break
        sleep(_LOOK_S)
        found = load()
    return found


def contenders_with(case: Case, device: str, preset: str, plans: Sequence[tuple[str, Path]]) -> tuple[Contender, ...]:
    """Return a case's contenders and the given plans that are of its network, size and batch."""
    from parnet_deploy.artifacts.folders import open_plan

    found = list(contenders_for(case, device, preset))
    for label, folder in plans:
        plan = open_plan(folder).manifest
        if (plan.name, plan.preprocessing.input_size[1], plan.batch.opt) == (case.network, case.pixels, case.batch):
            options = {"folder": str(folder.absolute()), "backend": plan.backend, "partition": plan.partition}
            found.append(Contender(f"parnet-deploy, {label}", "plan", "ours", options, plan.precision))
    return tuple(found)


def run_steps(steps: Sequence[Step], place: Place, *, until: float | None, log: Log) -> bool:
    """Do what is not done yet; return False if the time (`time.monotonic`) was up before the end.

    A contender that cannot be prepared, or fails in its first turn, gets no further turns.
    """
    for index, step in enumerate(steps):
        path = place.turn_path(step.case, step.contender, step.turn)
        if path.exists() or _is_out(step, place):
            continue
        if until is not None and time.monotonic() > until:
            return False
        what = "preparing" if step.turn < 0 else f"round {step.turn + 1} of {step.effort.rounds}"
        log(f"[{index + 1}/{len(steps)}] {step.case.name}: {step.contender.name}, {what}")
        turn = call_worker(step, place)
        if turn.skipped is not None:
            log(f"    left out: {turn.skipped}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path, force=True) as temporary:
            temporary.write_text(turn.model_dump_json())
    return True


def _is_out(step: Step, place: Place) -> bool:
    earlier = (place.turn_path(step.case, step.contender, turn) for turn in range(-1, step.turn))
    return any(path.exists() and read_turn(path).skipped is not None for path in earlier)


def read_turn(path: Path) -> Turn:
    """Read a run."""
    return Turn.model_validate_json(path.read_bytes())


def call_worker(step: Step, place: Place) -> Turn:
    """Take one step in a child process; one that crashes or hangs gives a reason and no exception."""
    folder = place.case_folder(step.case)
    folder.mkdir(parents=True, exist_ok=True)
    result_path = folder / f"result-{os.getpid()}.json"
    request: dict[str, Any] = {
        "action": "prepare" if step.turn < 0 else "measure",
        "case": asdict(step.case),
        "effort": asdict(step.effort),
        "contender": {**asdict(step.contender), "options": dict(step.contender.options)},
        "folder": str(folder.absolute()),
        "tools": str(place.tools.absolute()),
        "result_path": str(result_path.absolute()),
    }
    command = [sys.executable, "-m", "benchmarks.worker"]
    request["launched_ns"] = time.monotonic_ns()
    try:
        done = subprocess.run(
            command,
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            cwd=Path(__file__).parents[1],
        )
        if done.returncode == 0:
            return read_turn(result_path)
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return Turn(skipped=f"its process ended with status {done.returncode}: {''.join(last)}")
    except subprocess.TimeoutExpired:
        return Turn(skipped=f"no answer in {_PATIENCE_S} s")
    finally:
        result_path.unlink(missing_ok=True)


def collect(
    cases: Sequence[tuple[Case, Effort]], contenders: Callable[[Case], Sequence[Contender]], place: Place
) -> tuple[CaseResult, ...]:
    """Gather the runs that there are; a case counts from its first whole round, in which all had their turn."""
    found = []
    for case, _ in cases:
        turns = [(contender, _turns_of(case, contender, place)) for contender in contenders(case)]
        rounds = min((len(runs) for _, runs in turns if not _skipped(runs)), default=0)
        info_path = place.case_folder(case) / "case.json"
        if rounds == 0 or not info_path.exists():
            continue
        info = json.loads(info_path.read_text())
        results = tuple(
            ContenderResult(
                name=contender.name,
                role=contender.role,
                precision=contender.precision,
                runs=() if _skipped(runs) else tuple(turn.run for turn in runs[:rounds] if turn.run is not None),
                skipped=_skipped(runs),
            )
            for contender, runs in turns
        )
        found.append(
            CaseResult(
                network=case.network,
                pixels=case.pixels,
                batch=case.batch,
                gflop=info["gflop"],
                parameters=info["parameters"],
                rounds=rounds,
                contenders=results,
            )
        )
    return tuple(found)


def _turns_of(case: Case, contender: Contender, place: Place) -> list[Turn]:
    """Return a contender's turns, or the one reason why it has none."""
    prepared = place.turn_path(case, contender, -1)
    if prepared.exists() and read_turn(prepared).skipped is not None:
        return [read_turn(prepared)]
    turns: list[Turn] = []
    while (path := place.turn_path(case, contender, len(turns))).exists():
        turns.append(read_turn(path))
    return turns


def _skipped(turns: Sequence[Turn]) -> str | None:
    return next((turn.skipped for turn in turns if turn.skipped is not None), None)
