"""A CUDA driver in host memory, built from `libcuda/`, and pytest runs of `inside/` that find it instead of a real one.

The runs are processes of their own, so that nothing else in this one takes the driver for a GPU's.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cuda_sim.environment import ADAPTERS, variables, why_missing
from tests.cuda_sim.native import CannotBuildError, build_libcuda, build_nvtx_recorder
from tests.summary import CUDA_SIM

HERE = Path(__file__).parent
PATIENCE_S = 300

# Tests under `inside/` run only on the driver in host memory.
collect_ignore = [] if "CUDASIM_DEVICES" in os.environ else ["inside"]


@pytest.fixture(scope="session")
def libcuda_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `libcuda.so.1`; skips where it cannot be built or the bindings are not installed."""
    skip_without("cuda-bindings")
    folder = tmp_path_factory.mktemp("libcuda")
    with built():
        build_libcuda(folder)
    return folder


@pytest.fixture(scope="session")
def nvtx_recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tool that writes NVTX ranges to the file that `NVTX_RECORDS` names; skips where it cannot be built."""
    library = tmp_path_factory.mktemp("nvtx") / "recorder.so"
    with built():
        build_nvtx_recorder(library)
    return library


@contextmanager
def built() -> Iterator[None]:
    """Skip the test, with the reason, if this machine cannot build what the block builds."""
    try:
        yield
    except CannotBuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundles of a small network of four streams, one per partition, named after it."""
    # Workers of pytest-xdist have folders of their own beside each other; the first makes the bundles for all.
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "bundles"
    with (shared / "bundles.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            make_bundles(shared / "bundles.partial")
            (shared / "bundles.partial").rename(folder)
    return folder


def make_bundles(folder: Path) -> None:
    """Export the network once and cut it in every way."""
    from parnet_deploy.artifacts.schemas import BatchRange, NetworkConfig, Preprocessing
    from parnet_deploy.export import ExportOptions, bundle, export_bundle
    from parnet_deploy.fusion import fuse
    from parnet_deploy.models.checkpoints import save_checkpoint
    from parnet_deploy.models.initialization import create_random_network

    folder.mkdir()
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


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> str:
    """Each package that reaches the CUDA driver; skips where it is missing."""
    name: str = request.param
    skip_without(name)
    return name


@pytest.fixture
def pycuda() -> None:
    """Skips where pycuda could not be built."""
    skip_without("pycuda")


def skip_without(adapter: str) -> None:
    reason = why_missing(adapter)
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def run_inside(
    libcuda_dir: Path, bundles: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> Callable[..., Counter[str]]:
    """A function (file, devices=4, adapter=None, environment=None) that runs a file of `inside/` on the driver.

    It returns what was counted, by default on every adapter that is there.
    """

    def run(
        file: str, devices: int = 4, *, adapter: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Counter[str]:
        report = tmp_path / "counts.json"
        adapters = [name for name in ADAPTERS if why_missing(name) is None] if adapter is None else [adapter]
        environ = {
            **variables(libcuda_dir),
            "CUDASIM_DEVICES": str(devices),
            "CUDASIM_ADAPTERS": ",".join(adapters),
            "CUDASIM_REPORT": str(report),
            "CUDASIM_BUNDLES": str(bundles),
            **(environment or {}),
        }
        for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
            environ.pop(name, None)
        command = [sys.executable, "-m", "pytest", str(HERE / "inside" / file), "-p", "no:xdist", "-x", "-rs"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environ,
            timeout=PATIENCE_S,
            cwd=HERE.parents[1],
        )
        assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
        counts: dict[str, dict[str, int]] = json.loads(report.read_text())
        record_property(CUDA_SIM, counts)
        return sum(map(Counter, counts.values()), Counter())

    return run
