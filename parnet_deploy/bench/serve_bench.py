"""Measure several plans in turn, each run alone in a child process, and make the report."""

from __future__ import annotations

import datetime
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from parnet_deploy import __version__
from parnet_deploy.artifacts.files import refuse_existing
from parnet_deploy.artifacts.folders import OpenPlan, open_plan
from parnet_deploy.artifacts.report import BenchRound, Contender, Metric, Ratio, Report, ScenarioSettings
from parnet_deploy.bench.loadgen import import_loadgen
from parnet_deploy.bench.machine import describe_machine
from parnet_deploy.bench.plots import import_matplotlib
from parnet_deploy.bench.protocol import WorkerRequest, WorkerResult
from parnet_deploy.bench.publish import write_report
from parnet_deploy.bench.scenarios import DEFAULT_ROUNDS
from parnet_deploy.bench.statistics import latency_statistics, median_stage_times, paired_ratio
from parnet_deploy.errors import InferenceError
from parnet_deploy.planning.schedule import bytes_moved

_STDERR_LINES = 8
_METRIC_VALUES: dict[Metric, Callable[[BenchRound], float]] = {
    "p50_latency": lambda entry: entry.latency.p50_ms,
    "p90_latency": lambda entry: entry.latency.p90_ms,
    "throughput": lambda entry: entry.samples_per_second,
}


@dataclass(frozen=True)
class Progress:
    """Where a benchmark stands: `done` of `total` runs are over; `label` and `round_number` (from 1) are the next."""

    done: int
    total: int
    label: str
    round_number: int


def serve_bench(
    plans: Sequence[Path],
    settings: ScenarioSettings,
    *,
    rounds: int = DEFAULT_ROUNDS,
    output: Path | None = None,
    force: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Measure plans under one scenario, in turn (A B C A B C ...); the first is the baseline of the ratios.

    With `output` the report is also written there as a folder, replaced whole if `force` allows it. `on_progress` is
    called before each run and after the last.

    Raises:
        ArtifactError: a plan that cannot be read, or an output that cannot be written.
        InferenceError: a plan that failed while it was measured, or no plan or round to measure.
        MissingDependencyError: LoadGen, or matplotlib for the report, is not installed.
    """
    if not plans or rounds < 1:
        raise InferenceError("there must be at least one plan and one round to measure")
    import_loadgen()
    if output is not None:
        import_matplotlib()
        refuse_existing(output, force=force)
    opened = [open_plan(plan) for plan in plans]
    labels = labels_of(plans)
    settings, measured = _measure_in_turn(plans, labels, settings, rounds, on_progress)
    contenders = tuple(
        _contender(label, plan, runs) for label, plan, runs in zip(labels, opened, measured, strict=True)
    )
    report = Report(
        tool_version=__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        settings=settings,
        machine=describe_machine(),
        contenders=contenders,
        ratios=ratios_of(contenders),
    )
    if output is not None:
        write_report(output, report, force=force)
    return report


def _measure_in_turn(
    plans: Sequence[Path],
    labels: Sequence[str],
    settings: ScenarioSettings,
    rounds: int,
    on_progress: Callable[[Progress], None],
) -> tuple[ScenarioSettings, list[list[BenchRound]]]:
    """Return the settings as they were used and the rounds of each plan.

    Targets that the settings leave open are chosen by the first run, the baseline's, and hold for all that follow.
    """
    measured: list[list[BenchRound]] = [[] for _ in plans]
    total = rounds * len(plans)
    for done in range(total):
        turn, index = divmod(done, len(plans))
        on_progress(Progress(done, total, labels[index], turn + 1))
        result = run_worker(plans[index], labels[index], settings)
        settings = result.settings
        measured[index].append(result.round)
    on_progress(Progress(total, total, labels[-1], rounds))
    return settings, measured


def run_worker(plan: Path, label: str, settings: ScenarioSettings) -> WorkerResult:
    """Measure a plan once in a child process.

    Raises:
        InferenceError: the process failed; the end of what it wrote to standard error is in the message.
    """
    with tempfile.TemporaryDirectory(prefix="parnet-bench-") as folder:
        result_path = Path(folder) / "result.json"
        request = WorkerRequest(
            plan=str(plan.absolute()),
            settings=settings,
            launched_ns=time.monotonic_ns(),
            result_path=str(result_path),
        )
        # -P keeps files of the current folder from being imported in place of the standard library's.
        command = [sys.executable, "-P", "-m", "parnet_deploy.bench.worker"]
        completed = subprocess.run(
            command, input=request.model_dump_json(), capture_output=True, text=True, errors="replace", check=False
        )
        if completed.returncode != 0:
            raise InferenceError(
                f"{label} could not be measured, its process {_ending(completed.returncode)}:\n"
                + _tail(completed.stderr),
                where=plan,
            )
        return WorkerResult.model_validate_json(result_path.read_bytes())


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"ended with exit status {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was ended by {name}{hint}"


def _tail(text: str) -> str:
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "\n".join(f"  {line[:300]}" for line in lines[-_STDERR_LINES:]) or "  (it wrote nothing to standard error)"


def labels_of(plans: Sequence[Path]) -> tuple[str, ...]:
    """Name plans by their folders, with as many parent folders as tell them apart, or a number where none does."""
    parts = [plan.absolute().parts for plan in plans]

    def label(index: int) -> str:
        others = [other for other in parts if other != parts[index]]
        for depth in range(1, len(parts[index]) + 1):
            tail = parts[index][-depth:]
            if all(other[-depth:] != tail for other in others):
                break
        same = [position for position, other in enumerate(parts) if other == parts[index]]
        number = f"#{same.index(index) + 1}" if len(same) > 1 else ""
        return str(Path(*tail)) + number

    return tuple(label(index) for index in range(len(plans)))


def ratios_of(contenders: Sequence[Contender]) -> tuple[Ratio, ...]:
    """Compare every contender but the first with the first, by each metric, round by round."""
    baseline = contenders[0]
    return tuple(
        paired_ratio(
            contender.label,
            baseline.label,
            metric,
            [value_of(entry) for entry in contender.rounds],
            [value_of(entry) for entry in baseline.rounds],
        )
        for contender in contenders[1:]
        for metric, value_of in _METRIC_VALUES.items()
    )


def _contender(label: str, plan: OpenPlan, rounds: Sequence[BenchRound]) -> Contender:
    """Join a plan's identity and its rounds."""
    manifest = plan.manifest
    sizes_bytes = {name: tensor.size_bytes for name, tensor in manifest.tensors.items()}
    bytes_host, bytes_across = bytes_moved(manifest.schedule, sizes_bytes)
    return Contender(
        label=label,
        plan_name=manifest.name,
        plan_sha256=plan.sha256,
        backend=manifest.backend,
        backend_version=manifest.backend_version,
        devices=manifest.devices,
        form=manifest.form,
        partition=manifest.partition,
        precision=manifest.precision,
        batch=manifest.batch,
        input_shape=manifest.tensors[manifest.input].shape,
        latency=latency_statistics([latency for entry in rounds for latency in entry.latencies_ns]),
        samples_per_second=median(entry.samples_per_second for entry in rounds),
        cold_start_ms=median(entry.cold_start.total_ms for entry in rounds),
        peak_memory_bytes=int(median(entry.peak_memory_bytes for entry in rounds)),
        bytes_across=bytes_across,
        bytes_host=bytes_host,
        stages=median_stage_times([entry.stages for entry in rounds]),
        rounds=tuple(rounds),
    )
