"""A CUDA driver in host memory, built from `libcuda/`, and pytest runs of `inside/` that find it instead of a real one.

The runs are processes of their own, so that nothing else in this one takes the driver for a GPU's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

HERE = Path(__file__).parent
PATIENCE_S = 300

# Tests under `inside/` run only on the driver in host memory.
collect_ignore = [] if "CUDASIM_DEVICES" in os.environ else ["inside"]


@pytest.fixture(scope="session")
def libcuda_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `libcuda.so.1`; skips where it cannot be built or the bindings are not installed."""
    compiler = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler for the CUDA driver in host memory (apt-get install gcc)")
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        pytest.skip("cuda-bindings is not installed (pip install cuda-bindings)")
    folder = tmp_path_factory.mktemp("libcuda")
    options = ["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-O1", "-fPIC", "-shared", "-pthread"]
    sources = sorted(map(str, (HERE / "libcuda").glob("*.c")))
    command = [compiler, *options, "-Wl,-soname,libcuda.so.1", *sources, "-o", str(folder / "libcuda.so.1"), "-ldl"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles of a small network of four streams, one per partition, named after it."""
    from parnet_deploy.artifacts.schemas import BatchRange, NetworkConfig, Preprocessing
    from parnet_deploy.export import ExportOptions, bundle, export_bundle
    from parnet_deploy.fusion import fuse
    from parnet_deploy.models.checkpoints import save_checkpoint
    from parnet_deploy.models.initialization import create_random_network

    folder = tmp_path_factory.mktemp("bundles")
    checkpoint = folder / "fused.safetensors"
    network = NetworkConfig(stem=(8,), planes=(8, 12, 16, 20), num_blocks=(1, 1, 2, 1), last_planes=24, num_classes=7)
    model = fuse(create_random_network(network, seed=3))
    save_checkpoint(checkpoint, model, architecture="small", preprocessing=Preprocessing(input_size=(3, 32, 32)))
    graph: list[Any] = []
    export_graph = bundle.export_graph

    def export_once(*args: Any) -> Any:
        """Call torch.onnx once: it is slow, and every partition starts from the same graph."""
        graph.extend([] if graph else [export_graph(*args)])
        return graph[0].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "export_graph", export_once)
        for name in ("whole", "streams", "shared-stem", "terms", "terms-shared-stem"):
            options = ExportOptions(partition=name, batch=BatchRange(min=1, opt=2, max=3))
            export_bundle(checkpoint, folder / name, options)
    return folder


@pytest.fixture
def run_inside(
    libcuda_dir: Path, bundles: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Callable[..., Counter[str]]:
    """A function (file, devices=4) that runs a file of `inside/` on the driver and returns what it counted."""

    def run(file: str, devices: int = 4) -> Counter[str]:
        report = tmp_path / "counts.json"
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": os.pathsep.join([str(libcuda_dir), os.environ.get("LD_LIBRARY_PATH", "")]),
            "CUDASIM_DEVICES": str(devices),
            "CUDASIM_REPORT": str(report),
            "CUDASIM_BUNDLES": str(bundles),
            "OMP_NUM_THREADS": "1",
        }
        for name in ("CUDA_VISIBLE_DEVICES", "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        command = [sys.executable, "-m", "pytest", str(HERE / "inside" / file), "-p", "no:xdist", "-x", "-rs"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=PATIENCE_S,
            cwd=HERE.parents[1],
        )
        assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
        counts: Counter[str] = Counter(json.loads(report.read_text()))
        record_property("cuda_sim", dict(counts))
        return counts

    return run


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print what was tried on the driver in host memory, or why nothing was."""
    total: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, counts in getattr(report, "user_properties", []):
            if name == "cuda_sim":
                total.update(counts)
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "cuda_sim" in report.keywords]
    if total or skipped:
        terminalreporter.section("CUDA driver in host memory")
    for name, count in sorted(total.items()):
        terminalreporter.write_line(f"{count:>8}  {name}")
    for reason in sorted({str(report.longrepr[2]) for report in skipped}):
        terminalreporter.write_line(reason)
