"""Plans of toy networks, and plans whose stages are Python functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.base import Array, StageSpec, check_binding
from parnet_deploy.engines.null import NullBackend
from tests.engines import toy_bundles

StageFunction = Callable[[Mapping[str, Array], Mapping[str, Array]], None]


class PythonEngine:
    """Runs a Python function on the bound arrays."""

    def __init__(self, spec: StageSpec, function: StageFunction) -> None:
        self.spec = spec
        self.function = function
        self.bindings = 0

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> PythonBoundEngine:
        check_binding(self.spec, inputs, outputs)
        self.bindings += 1
        return PythonBoundEngine(self.function, inputs, outputs)

    def close(self) -> None:
        pass


class PythonBoundEngine:
    """A function with its arrays."""

    def __init__(self, function: StageFunction, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self.function, self.inputs, self.outputs = function, inputs, outputs

    def run(self) -> None:
        self.function(self.inputs, self.outputs)


class PythonBackend(NullBackend):
    """Loads any plan of the null backend with Python functions for its stages."""

    def __init__(self, functions: Mapping[str, StageFunction]) -> None:
        self.functions = functions
        self.engines: dict[str, PythonEngine] = {}

    def load(self, engine_path: Path, spec: StageSpec) -> PythonEngine:  # type: ignore[override]  # noqa: ARG002
        self.engines[spec.name] = PythonEngine(spec, self.functions[spec.name])
        return self.engines[spec.name]


@pytest.fixture
def make_plan(tmp_path: Path) -> Callable[..., Path]:
    """Build a plan of a toy bundle under `tmp_path`."""

    def make(
        cut: str = "diamond",
        precision: str = "fp32",
        batch: tuple[int, int, int] = (1, 1, 1),
        backend: str = "onnxruntime",
    ) -> Path:
        name = f"{cut}-{precision}-{backend}-{'-'.join(map(str, batch))}"
        sizes = BatchRange(min=batch[0], opt=batch[1], max=batch[2])
        bundle = toy_bundles.make_bundle(tmp_path / f"bundle-{name}", cut, precision, sizes)
        return build_plan(bundle, tmp_path / f"plan-{name}", backend=backend, threads=2)

    return make


@pytest.fixture
def python_engine() -> type[PythonEngine]:
    """The class of engines that run Python functions."""
    return PythonEngine


@pytest.fixture
def python_stages(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, StageFunction]], PythonBackend]:
    """Make plans of the null backend load with Python functions as their stages."""

    def use(functions: Mapping[str, StageFunction]) -> PythonBackend:
        backend = PythonBackend(functions)
        monkeypatch.setattr("parnet_deploy.engines.load.get_backend", lambda *_: backend)
        return backend

    return use
