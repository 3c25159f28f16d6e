"""Backends by name; a backend's module, and with it its package, is imported when it is first asked for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import NamedTuple, cast

from parnet_deploy.engines.base import Backend
from parnet_deploy.engines.options import BuildOptions, check_options
from parnet_deploy.errors import EngineError, MissingDependencyError


class _Entry(NamedTuple):
    module: str
    backend: str
    # The packages that the module imports, and the extra that brings them.
    packages: tuple[str, ...]
    extra: str | None


_BACKENDS = {
    "onnxruntime": _Entry("parnet_deploy.engines.onnxruntime", "OnnxRuntimeBackend", ("onnxruntime",), "onnxruntime"),
    "onnxruntime-cuda": _Entry(
        "parnet_deploy.engines.onnxruntime_cuda", "OnnxRuntimeCudaBackend", ("onnxruntime", "onnx"), "onnxruntime-gpu"
    ),
    # Which of the TensorRT packages is imported is an option, so the backend itself reports one that is missing.
    "tensorrt": _Entry("parnet_deploy.engines.tensorrt", "TensorRTBackend", (), "tensorrt"),
    "torch": _Entry("parnet_deploy.engines.torch", "TorchBackend", ("torch", "onnx"), "author"),
    "ncnn": _Entry("parnet_deploy.engines.ncnn", "NcnnBackend", ("ncnn", "onnx"), "ncnn"),
    "openvino": _Entry("parnet_deploy.engines.openvino", "OpenVinoBackend", ("openvino",), "openvino"),
    "null": _Entry("parnet_deploy.engines.null", "NullBackend", (), None),
}

BACKEND_NAMES = tuple(_BACKENDS)


def get_backend(name: str, options: BuildOptions | None = None) -> Backend:
    """Return a backend, with the options that engines are to be built with.

    Raises:
        EngineError: no backend of that name, or options that are not for it.
        MissingDependencyError: the backend's package is not installed.
    """
    module = import_backend(name)
    check_options(options or BuildOptions(), name)
    return cast(Backend, getattr(module, _BACKENDS[name].backend)(options))


def import_backend(name: str) -> ModuleType:
    """Import a backend's module, and with it its package.

    Raises:
        EngineError: no backend of that name.
        MissingDependencyError: the backend's package is not installed.
    """
    if name not in _BACKENDS:
        raise EngineError(f"no backend {name!r}", remedy=f"one of: {', '.join(BACKEND_NAMES)}")
    entry = _BACKENDS[name]
    try:
        return import_module(entry.module)
    except ImportError as error:
        package = (error.name or "").split(".")[0]
        if package not in entry.packages:
            raise
        raise MissingDependencyError(
            f"backend {name!r} needs the package {package!r}, which cannot be imported ({error})",
            remedy=f"pip install 'parnet-deploy[{entry.extra}]'",
        ) from error
