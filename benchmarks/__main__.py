"""`python -m benchmarks`: measure parnet-deploy beside its peers, write the results and the page about them."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.cases import PARNETS, PRESETS, RESNETS, Case, Effort, cases_of
from benchmarks.harness import Place, Step, collect, contenders_with, run_steps, steps_of, versions, wait_for_quiet
from benchmarks.records import Results, Sitting, with_sitting
from parnet_deploy import __version__
from parnet_deploy.artifacts.files import read_manifest, replacing_file, write_manifest
from parnet_deploy.artifacts.report import Machine
from parnet_deploy.bench.machine import describe_machine

# What a run takes beside its requests, seen on two cores: starting and opening, and for preparing the exports.
_START_S, _PREPARE_S = 3.0, 6.0
_START_ON_CUDA_S = 10.0
# Requests are estimated at this many GFLOP a second and core.
_GFLOP_S_PER_CORE = 60.0
_GFLOP = {"parnet_pico": 0.3, "parnet_s": 9.7, "parnet_m": 17.2, "parnet_l": 26.6, "parnet_xl": 41.4} | {
    "resnet34": 7.3,
    "resnet50": 8.2,
}


def machine_name(machine: Machine, device: str) -> str:
    """Return the name of the file that a machine's results are in."""
    text = f"{machine.processor} {machine.usable_cores} cores" if device == "cpu" else device
    return "-".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())


def estimated_s(steps: list[Step], cores: int) -> float:
    """Estimate how long steps take."""
    total = 0.0
    for step in steps:
        case, effort = step.case, step.effort
        if step.turn < 0:
            total += _PREPARE_S
            continue
        if step.contender.adapter.startswith("cuda"):
            total += _START_ON_CUDA_S + 1.2 * effort.least_s
            continue
        gflop = _GFLOP.get(case.network, 20.0) * case.batch * (case.pixels / 224) ** 2
        request_s = gflop / (_GFLOP_S_PER_CORE * cores)
        wanted = max(effort.least_s * 1.2, request_s * (effort.least_requests + 2))
        total += _START_S + min(wanted, max(effort.most_s, 5 * request_s))
    return total


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "preset",
        nargs="?",
        default="full",
        choices=PRESETS,
        help="everything (a night), what decides (ten minutes), or a tiny network, to see whether all of it works",
    )
    parser.add_argument("--only", action="append", choices=[*PARNETS, *RESNETS], help="only this network; repeatable")
    parser.add_argument("--batch", action="append", type=int, help="only this batch size; repeatable")
    parser.add_argument("--pixels", action="append", type=int, help="only this input size; repeatable")
    parser.add_argument("--rounds", type=int, help="turns of each contender, instead of the preset's")
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="stop after so long; started again, it goes on")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--plan", action="append", default=[], metavar="LABEL=FOLDER", help="measure this plan too")
    parser.add_argument("--list", action="store_true", help="say what would be done and how long it takes")
    parser.add_argument("--report-only", action="store_true", help="write the page from the results that there are")
    parser.add_argument("--work", type=Path, default=Path("out/benchmarks"), help="what can be made again")
    parser.add_argument("--tools", type=Path, default=Path(".cache"), help="programs that make fetched")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks.md"))
    return parser.parse_args()


def selected_cases(arguments: argparse.Namespace) -> tuple[tuple[Case, Effort], ...]:
    """Return the cases that the command line asks for."""
    cases = cases_of(arguments.preset, tuple(arguments.only) if arguments.only else None, arguments.device)
    rounds = arguments.rounds
    return tuple(
        (case, effort if rounds is None else Effort(rounds, effort.least_s, effort.least_requests, effort.most_s))
        for case, effort in cases
        if arguments.batch is None or case.batch in arguments.batch
        if arguments.pixels is None or case.pixels in arguments.pixels
    )


def log(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Measure, write the results of this machine, and the page of all machines."""
    arguments = parse_arguments()
    machine = describe_machine()
    device = "cpu" if arguments.device == "cpu" else _gpu_name()
    name = machine_name(machine, device)
    plans = [(label, Path(folder)) for label, _, folder in (given.partition("=") for given in arguments.plan)]
    cases = selected_cases(arguments)
    contenders = partial(contenders_with, device=arguments.device, preset=arguments.preset, plans=plans)
    place = Place(arguments.work, arguments.tools)
    steps = list(steps_of(cases, contenders))
    undone = [step for step in steps if not place.turn_path(step.case, step.contender, step.turn).exists()]
    hours = estimated_s(undone, machine.usable_cores) / 3600
    log(f"{len(undone)} of {len(steps)} steps to do, about {hours:.1f} hours; what is finished is kept in {place.work}")
    if arguments.list:
        for case, effort in cases:
            print(f"{case.name}: {len(contenders(case))} contenders, {effort.rounds} rounds")
        return 0
    path = arguments.results / f"{name}{'' if arguments.preset == 'full' else f'-{arguments.preset}'}.json"
    is_complete = True
    if not arguments.report_only:
        is_timed = bool(undone) and arguments.preset != "tiny"
        load = wait_for_quiet(machine.usable_cores, log) if is_timed else os.getloadavg()[0]
        until = None if arguments.budget is None else time.monotonic() + 60 * arguments.budget
        is_complete = run_steps(steps, place, until=until, log=log)
        found = collect(cases, contenders, place)
        if found:
            created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            sitting = Sitting(
                tool_version=__version__,
                created=created,
                machine=machine,
                versions=versions(),
                load_at_start=load,
                cases=found,
            )
            _write_results(path, device, sitting)
    _write_page(arguments.results, arguments.page)
    log(f"{'finished' if is_complete else 'time is up, start again to go on'}: {path}, {arguments.page}")
    return 0


def best_results(folder: Path) -> list[Path]:
    """Return each machine's results, those of the most thorough preset that it has."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.glob("*.json")):
        preset = next((preset for preset in PRESETS if path.stem.endswith(f"-{preset}")), "full")
        machine, rank = path.stem.removesuffix(f"-{preset}"), PRESETS.index(preset)
        if machine not in found or rank < found[machine][0]:
            found[machine] = (rank, path)
    return [path for _, path in found.values()]


def _gpu_name() -> str:
    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA device that torch can use: leave out --device cuda")
    return str(torch.cuda.get_device_name(0))


def _write_results(path: Path, device: str, sitting: Sitting) -> None:
    earlier = _read_results(path) if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path, force=True) as temporary:
        write_manifest(temporary, with_sitting(earlier, device, sitting))


def _read_results(path: Path) -> Results:
    return read_manifest(path, Results, kind="benchmarks", schema_version=2)[0]


def _write_page(folder: Path, page: Path) -> None:
    from benchmarks.report import write_report

    paths = best_results(folder)
    write_report([_read_results(path) for path in paths], [path.stem for path in paths], page)


if __name__ == "__main__":
    sys.exit(main())
