"""Build pycuda, which has no wheels, for the tests on a CUDA driver in host memory: `make pycuda`.

It is linked to that driver, which defines every symbol, and takes NVIDIA's headers from wheels: neither a GPU nor a
CUDA toolkit is needed, but a C++ compiler and the package index. The result lies under `.cache/`, out of the way of
what is installed, and is built once. Where it cannot be built, the reason is kept there for the tests to tell.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.cuda_sim.native import CannotBuildError, build_libcuda, find_header

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"


def pycuda_folder() -> Path:
    """Return where pycuda lies once it is built; the name holds the versions of pycuda and of Python."""
    return ROOT / ".cache" / f"{_pinned('pycuda').replace('==', '-')}-{sys.implementation.cache_tag}"


def _pinned(package: str) -> str:
    """Return a package with its version, as `constraints.txt` has it."""
    return next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith(f"{package}=="))


def why_not_built() -> str:
    """Return why there is no pycuda."""
    reason = _reason_file(pycuda_folder())
    return reason.read_text() if reason.exists() else "nobody has tried (make pycuda)"


def _reason_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.failed")


def build(folder: Path) -> None:
    """Build pycuda and what it needs at run time into `folder`.

    Raises:
        CannotBuildError: something is missing.
    """
    if shutil.which("g++") is None:
        raise CannotBuildError("there is no C++ compiler (apt-get install g++)")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise CannotBuildError("Python's headers are missing (apt-get install python3-dev)")
    headers = [find_header("cuda.h")]
    with tempfile.TemporaryDirectory() as made:
        library, more_headers = Path(made, "libcuda"), Path(made, "headers")
        library.mkdir()
        build_libcuda(library)
        # cudaProfiler.h is in a wheel of its own that nothing else asks for.
        _pip("--no-deps", "--target", str(more_headers), _pinned("nvidia-cuda-profiler-api"))
        headers += more_headers.glob("nvidia/*/include")
        settings = {
            "CUDA_INC_DIR": list(map(str, headers)),
            "CUDADRV_LIB_DIR": [str(library)],
            "CUDA_ENABLE_CURAND": False,
            # The tests wait for the streams, not for this code: unoptimised, it compiles faster.
            "CXXFLAGS": ["-O0", "-g0", "-w"],
        }
        # What pycuda's setup.py understands in place of the file that its configure.py would write.
        options = [f"-C--global-option=--conf:{name}={value!r}" for name, value in settings.items()]
        pins = ["--constraint", str(CONSTRAINTS), "--build-constraint", str(CONSTRAINTS)]
        # Past pip's cache: a build for real GPUs is not taken from there, nor is this one left for them.
        _pip(*pins, "--no-cache-dir", "--no-binary", "pycuda", *options, "--target", str(folder), _pinned("pycuda"))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # Of compilers and of pip; words joined by hyphens are pip's names for kinds of errors.
        found = re.search(r"error: (\S+ .+)", done.stderr, re.IGNORECASE)
        raise CannotBuildError(f"pip install {arguments[-1]}: {found[1] if found else done.stderr[-300:]}")


def main() -> int:
    """Build pycuda unless it is there; return 1 if it cannot be built."""
    folder = pycuda_folder()
    reason = _reason_file(folder)
    if folder.exists():
        return 0
    print(f"building {folder.name} for the tests, which takes a minute or two")
    reason.unlink(missing_ok=True)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        build(partial)
    except CannotBuildError as error:
        reason.parent.mkdir(exist_ok=True)
        reason.write_text(str(error))
        print(f"pycuda is not built, and the tests go without it: {error}", file=sys.stderr)
        return 1
    partial.rename(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
