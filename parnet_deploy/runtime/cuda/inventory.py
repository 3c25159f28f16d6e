"""What this process finds of GPUs, and which packages it would use them by."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import permutations

from parnet_deploy.engines.gpus import Gpu, cuda_version, driver_problem, list_gpus, list_peers
from parnet_deploy.engines.options import TensorRTOptions
from parnet_deploy.engines.tensorrt_flavour import load_tensorrt
from parnet_deploy.errors import EngineError, ParNetError
from parnet_deploy.runtime.cuda.driver import choose_adapter, open_driver


@dataclass(frozen=True)
class Choice:
    """A package that would be used and why it is this one; or why none can be used, and the remedy."""

    name: str | None
    version: str | None
    reason: str
    remedy: str | None = None


@dataclass(frozen=True)
class Inventory:
    """GPUs as the driver tells them; `problem` says why there are none, `paths` how copies go from one to another."""

    gpus: tuple[Gpu, ...]
    problem: str | None
    cuda_version: str | None
    paths: dict[tuple[int, int], str]
    tensorrt: Choice
    adapter: Choice


def take_inventory() -> Inventory:
    """Ask the driver and import the packages; no context is made, and nothing runs on a GPU."""
    gpus: tuple[Gpu, ...] = ()
    paths: dict[tuple[int, int], str] = {}
    newest: str | None = None
    problem = driver_problem()
    if problem is None:
        try:
            gpus, newest = list_gpus(), cuda_version()
            peers = list_peers()
            paths = {pair: "peer" if pair in peers else "staged" for pair in permutations(range(len(gpus)), 2)}
            problem = None if gpus else "the driver sees no device: check nvidia-smi and CUDA_VISIBLE_DEVICES"
        except EngineError as error:
            problem = error.what
    return Inventory(gpus, problem, newest, paths, _find_tensorrt(), _find_adapter(can_open=bool(gpus)))


def _find_tensorrt() -> Choice:
    try:
        found = load_tensorrt(TensorRTOptions())
    except ParNetError as error:
        return Choice(None, None, error.what, error.remedy)
    full = found.flavour == "tensorrt"
    reason = "preferred to TensorRT for RTX" if full else "the full TensorRT cannot be imported"
    return Choice(found.title, str(found.module.__version__), reason)


def _find_adapter(*, can_open: bool) -> Choice:
    try:
        name = choose_adapter()
    except ParNetError as error:
        return Choice(None, None, error.what, error.remedy)
    try:
        found = version(name)
    except PackageNotFoundError:
        found = None
    reason = "preferred to cuda-bindings" if name == "pycuda" else "pycuda is not installed"
    if can_open:
        try:
            open_driver(name)
        except (ParNetError, ImportError) as error:
            remedy = error.remedy if isinstance(error, ParNetError) else f"install {name} again on this machine"
            return Choice(name, found, f"it does not open the driver: {error}", remedy)
    return Choice(name, found, reason)
