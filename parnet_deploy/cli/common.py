"""What the commands share: option types, the two consoles, one sink for results."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parnet_deploy.artifacts.cuda_options import CudaOptions
    from parnet_deploy.planning.timeline import Span

ForceOption = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write machine-readable JSON to stdout; logs go to stderr.")]
PlanArgument = Annotated[Path, typer.Argument(help="Plan folder.", show_default=False)]
TraceOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write a timeline for chrome://tracing or ui.perfetto.dev.", show_default=False),
]
CheckpointArgument = Annotated[Path, typer.Argument(help="Checkpoint (.safetensors).", show_default=False)]

_CUDA = "GPUs"


class AdapterName(StrEnum):
    """The package that reaches the CUDA driver."""

    pycuda = "pycuda"
    cuda_bindings = "cuda-bindings"


class GraphModeName(StrEnum):
    """When requests are captured into CUDA graphs."""

    auto = "auto"
    always = "always"
    never = "never"


AdapterOption = Annotated[
    AdapterName | None,
    typer.Option("--cuda-adapter", help="Default: pycuda if it is installed.", rich_help_panel=_CUDA),
]
GraphsOption = Annotated[
    GraphModeName,
    typer.Option("--cuda-graphs", help="auto: enqueue piece by piece what cannot be captured.", rich_help_panel=_CUDA),
]
NvtxOption = Annotated[
    bool, typer.Option("--nvtx", help="Name requests and stages for Nsight Systems.", rich_help_panel=_CUDA)
]

_UNWRAPPED = 1000


def finite(value: float | None) -> float | None:
    """Refuse an option's value that is infinite or no number: the callback of every option that takes a float."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("it has to be a finite number")
    return value


def cuda_options(adapter: AdapterName | None, graphs: GraphModeName, *, nvtx: bool) -> CudaOptions:
    """Return a session's settings for GPUs."""
    from parnet_deploy.artifacts.cuda_options import CudaOptions

    return CudaOptions(adapter=None if adapter is None else adapter.value, graphs=graphs.value, nvtx=nvtx)


def stdout() -> Console:
    """Return the console for results; where stdout is no terminal, lines are as long as they need to be.

    Brackets are text, not markup: they occur in paths, labels and `pip install 'parnet-deploy[author]'`.
    """
    return Console(width=None if sys.stdout.isatty() else _UNWRAPPED, highlight=False, markup=False)


def stderr() -> Console:
    """Return the console for logs and progress."""
    return Console(stderr=True, width=None if sys.stderr.isatty() else _UNWRAPPED, highlight=False, markup=False)


def emit(result: Any, rendered: RenderableType, *, as_json: bool) -> None:
    """Write a command's result to stdout: JSON for machines, or what was rendered for people."""
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")
    else:
        stdout().print(rendered)


def write_trace(path: Path, requests: Sequence[Sequence[Span]], title: str, *, force: bool) -> None:
    """Write a timeline of requests for trace viewers.

    Raises:
        OutputExistsError: the file exists and `force` is not set.
        ArtifactError: the file cannot be written.
    """
    from parnet_deploy.artifacts.files import replacing_file
    from parnet_deploy.planning.trace import trace_of

    with replacing_file(path, force=force) as temporary:
        temporary.write_text(json.dumps(trace_of(requests, title), indent=1) + "\n")
    stderr().print(f"trace: {path}", soft_wrap=True)


@contextmanager
def _progress(*columns: ProgressColumn) -> Iterator[Progress]:
    """Show a progress display on stderr that disappears at the end; none where stderr is no terminal."""
    console = stderr()
    progress = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal)
    # One that is disabled is neither started nor stopped: early releases of rich would end it with an empty line.
    with progress if console.is_terminal else nullcontext():
        yield progress


@contextmanager
def spinner(description: str) -> Iterator[Progress]:
    """Show a progress line on stderr while the block runs."""
    with _progress(SpinnerColumn(), TextColumn("{task.description}")) as progress:
        progress.add_task(description)
        yield progress


def describe(progress: Progress, text: str) -> None:
    """Change the text of a spinner."""
    progress.update(progress.task_ids[0], description=text)


@contextmanager
def progress_bar(description: str, total: int) -> Iterator[Progress]:
    """Show a progress bar on stderr; call `progress.advance(progress.task_ids[0])` for each step."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
    with _progress(*columns) as progress:
        progress.add_task(description, total=total)
        yield progress


@contextmanager
def download_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show bytes, speed and time left on stderr; yield a function of what is going on, bytes done and bytes in all."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with _progress(*columns) as progress:
        task = progress.add_task("", total=None)

        def show(what: str, done: int, total: int | None) -> None:
            if what != progress.tasks[0].description:  # bytes that were there before are not part of the speed
                progress.reset(task, description=what, completed=done, total=total)
            else:
                progress.update(task, completed=done, total=total)

        yield show


def format_bytes(size: float) -> str:
    """Format a size in bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
