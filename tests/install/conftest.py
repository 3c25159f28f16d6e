"""Build the wheel and install it in environments of their own, without torch."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from parnet_deploy.cli.main import run_app

ROOT = Path(__file__).parents[2]
EXTRAS = "onnxruntime,bench"

# What pip says where it reaches no index. "from versions: none" is said of a package that no index was asked about.
UNREACHABLE = ("from versions: none", "NewConnectionError", "NameResolutionError", "ProxyError", "Max retries exceeded")


def pip(*arguments: str | Path) -> None:
    """Run pip; skip the test where it cannot download, and fail it where it fails otherwise."""
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    if done.returncode and any(sign in done.stdout for sign in UNREACHABLE):
        pytest.skip(f"pip cannot download what the wheel needs: {done.stdout.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stdout


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds the wheel."""

    folder: Path

    @property
    def _clean(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def python(self, code: str) -> str:
        """Run Python code; return what it printed."""
        command = [self.folder / "bin/python", "-I", "-c", code]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=self._clean).stdout.strip()

    def run(self, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run a command of parnet-deploy in `cwd`."""
        command = [self.folder / "bin/parnet-deploy", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=self._clean)

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        files = (path for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink())
        return sum(path.stat().st_size for path in files)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this source."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("parnet_deploy-*.whl")
    return built


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Environment]:
    """Return a function that installs the wheel under a file of constraints."""

    @functools.cache
    def make(constraints: str) -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        # This pip installs for the other interpreter: no second pip, and nothing compiled that is not run.
        venv.create(folder, with_pip=False, symlinks=True)
        into = ["--python", folder / "bin/python", "install", "--quiet", "--no-compile"]
        pip(*into, "--constraint", ROOT / constraints, f"{wheel}[{EXTRAS}]")
        return Environment(folder)

    return make


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped digits network, fused and cut by stream, as the authoring side hands it over."""
    folder = tmp_path_factory.mktemp("authored")
    trained = ROOT / "models/parnet_nano_digits.safetensors"
    assert run_app(["fuse", str(trained), "-o", str(folder / "fused.safetensors")]) == 0
    assert run_app(["export", str(folder / "fused.safetensors"), "-o", str(folder / "bundle"), "--split-streams"]) == 0
    return folder / "bundle"
