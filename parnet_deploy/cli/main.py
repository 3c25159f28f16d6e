"""Assemble the commands; one place turns errors into messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
from rich.text import Text

from parnet_deploy import __version__
from parnet_deploy.cli.build import build
from parnet_deploy.cli.common import stderr
from parnet_deploy.cli.doctor import doctor
from parnet_deploy.cli.evaluate import evaluate
from parnet_deploy.cli.export import export
from parnet_deploy.cli.fuse import fuse
from parnet_deploy.cli.hub_export import hub_export
from parnet_deploy.cli.import_ import import_
from parnet_deploy.cli.init import init
from parnet_deploy.cli.inspect import inspect
from parnet_deploy.cli.models import models
from parnet_deploy.cli.plan import plan
from parnet_deploy.cli.pull import pull
from parnet_deploy.cli.quantize import quantize
from parnet_deploy.cli.run import run
from parnet_deploy.cli.serve_bench import serve_bench
from parnet_deploy.cli.train import train
from parnet_deploy.cli.tune import tune
from parnet_deploy.cli.verify import verify
from parnet_deploy.errors import INTERRUPTED, MissingDependencyError, ParNetError

app = typer.Typer(
    name="parnet-deploy",
    help="Deploy ParNet: train or import, fuse, export, build, run, and prove the numbers at every step.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

AUTHORING = "Authoring (needs torch)"
TARGET = "Target (no torch)"
for command, name, panel in (
    (train, "train", AUTHORING),
    (pull, "pull", AUTHORING),
    (import_, "import", AUTHORING),
    (init, "init", AUTHORING),
    (models, "models", AUTHORING),
    (fuse, "fuse", AUTHORING),
    (export, "export", AUTHORING),
    (hub_export, "hub-export", AUTHORING),
    (quantize, "quantize", TARGET),
    (plan, "plan", TARGET),
    (build, "build", TARGET),
    (tune, "tune", TARGET),
    (verify, "verify", TARGET),
    (run, "run", TARGET),
    (evaluate, "evaluate", TARGET),
    (serve_bench, "serve-bench", TARGET),
    (inspect, "inspect", TARGET),
    (doctor, "doctor", TARGET),
):
    app.command(name, rich_help_panel=panel)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"parnet-deploy {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options of all commands."""
    del version, debug  # both are acted on before any command runs


_EXTRA_OF = {
    "torch": "author",
    "torchvision": "author",
    "timm": "author",
    "accelerate": "author",
    "safetensors": "author",
    "torchmetrics": "author",
    "huggingface_hub": "author",
    "sklearn": "author",
    "onnx_ir": "author",
    "onnxscript": "author",
    "onnxsim": "author",
    "onnxruntime": "onnxruntime",
    "onnx": "onnxruntime",
    "filelock": "pull",
    "httpx2": "pull",
    "mlperf_loadgen": "bench",
    "matplotlib": "bench",
    "jinja2": "bench",
}


def main() -> None:
    """Run the command line; exit 0, 1 (a check failed), 2 (bad input) or 130 (interrupted)."""
    sys.exit(run_app(sys.argv[1:]))


def run_app(arguments: list[str]) -> int:
    """Run a command and return its exit code; every expected error becomes a message on stderr."""
    debug = "--debug" in arguments
    try:
        app(arguments, prog_name="parnet-deploy")
    except SystemExit as done:  # Typer's own way out: usage errors, --help, an interrupt
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except ParNetError as error:
        return _report(error, debug=debug)
    except OSError as error:  # what no command has a better name for: a path too long, no right to read it, a full disk
        remedy = "check the path, its permissions and free space"
        what = error.strerror or str(error)
        return _report(ParNetError(what, where=error.filename, remedy=remedy), debug=debug)
    except MemoryError:
        remedy = "ask for less at once: a smaller batch or input"
        return _report(ParNetError("not enough memory", remedy=remedy), debug=debug)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in _EXTRA_OF:
            raise
        remedy = f"pip install 'parnet-deploy[{_EXTRA_OF[missing]}]'"
        return _report(MissingDependencyError(f"{missing} is not installed", remedy=remedy), debug=debug)
    return 0


def _report(error: ParNetError, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    if _is_of_interrupt(error):
        return INTERRUPTED
    stderr().print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
    return error.exit_code


def _is_of_interrupt(error: BaseException | None) -> bool:
    """Tell whether an error came up while Ctrl-C was unwinding what it had interrupted, and hid it."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
