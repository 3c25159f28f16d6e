"""The tests' last lines, printed by one process and by pytest-xdist alike."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = "from tests.summary import pytest_terminal_summary\n"
TESTS = """
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("number", range(3))
def test_needs_a_gpu(number):
    pytest.skip("no NVIDIA GPU here" if number else "two GPUs are needed")

@pytest.mark.cuda_sim
def test_needs_pycuda():
    pytest.skip("pycuda is not built: no compiler")

@pytest.mark.cuda_sim
@pytest.mark.parametrize("adapter", ["pycuda", "cuda-bindings"])
def test_counts(adapter, record_property):
    record_property("cuda_sim", {adapter: {"driver calls": 1000, "faults": 5}, "": {"driver calls": 1}})

def test_skipped_for_another_reason():
    pytest.skip("not told twice")
"""
SUMMARY = """\
= CUDA driver in host memory =
       all  cuda-bindings    pycuda
      2002           1000      1000  driver calls
        10              5         5  faults
         1  skipped: pycuda is not built: no compiler
= skipped tests that need a GPU =
         2  skipped: no NVIDIA GPU here
         1  skipped: two GPUs are needed
2 passed, 5 skipped
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_and_reasons_are_printed(tmp_path: Path, workers: int) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu\n    cuda_sim\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)
    root = Path(__file__).parents[1]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", str(workers), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(root)},
    )
    # The line's width depends on the terminal, the last line's end on the time.
    printed = re.sub(r" in [\d.]+s", "", re.sub("=+", "=", done.stdout))
    assert printed.endswith(SUMMARY)
