"""Compile the C sources beside this file: a CUDA driver in host memory, and a tool that writes NVTX ranges down."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
_OPTIONS = ("-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-O1", "-fPIC", "-shared", "-pthread")


class CannotBuildError(Exception):
    """What this machine lacks to build something; the text says what, and how to get it."""


def build_libcuda(folder: Path, without: Iterable[str] = ()) -> None:
    """Build `libcuda.so.1` and `libcuda.so`, which a linker looks for; leave out sources that are named.

    Raises:
        CannotBuildError: there is no C compiler.
    """
    sources = [source for source in sorted((HERE / "libcuda").glob("*.c")) if source.name not in without]
    _build(folder / "libcuda.so.1", *sources, "-Wl,-soname,libcuda.so.1", "-ldl")
    (folder / "libcuda.so").symlink_to("libcuda.so.1")


def build_nvtx_recorder(library: Path) -> None:
    """Build the tool that `NVTX_INJECTION64_PATH` may name.

    Raises:
        CannotBuildError: there is no C compiler, or no headers of NVTX.
    """
    _build(library, HERE / "nvtx_recorder.c", f"-I{find_header('nvtx3/nvToolsExt.h')}")


def find_header(name: str) -> Path:
    """Return the folder in which NVIDIA's wheels, that torch brings along, have a header.

    Raises:
        CannotBuildError: no wheel has it.
    """
    spec = find_spec("nvidia")
    for root in (spec and spec.submodule_search_locations) or ():
        for folder in sorted(Path(root).glob("*/include")):
            if (folder / name).is_file():
                return folder
    raise CannotBuildError(
        f"no wheel of NVIDIA's that is installed has {name} (pip install nvidia-cuda-runtime nvidia-nvtx)"
    )


def _build(library: Path, *arguments: str | Path) -> None:
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        raise CannotBuildError("there is no C compiler (apt-get install gcc)")
    command = [compiler, *_OPTIONS, *arguments, "-o", library]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
