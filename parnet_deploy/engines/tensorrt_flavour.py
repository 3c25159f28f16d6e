"""Which TensorRT is used: the full one (`tensorrt`, 10 or 11) or TensorRT for RTX (`tensorrt_rtx`).

Both have nearly the same Python interface. What differs is asked of the module here, so that the builder has one path.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from parnet_deploy.engines.options import Flavour, TensorRTOptions
from parnet_deploy.errors import EngineError, MissingDependencyError

_MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_TITLES: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT for RTX"}
_OLDEST_MAJOR = 10


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT."""

    flavour: Flavour
    module: Any

    @property
    def title(self) -> str:
        """The name that people know it by."""
        return _TITLES[self.flavour]

    @property
    def version(self) -> str:
        """The version that engines are tied to: `10.13.3.9`, or `rtx 1.7.1.116`."""
        number = str(self.module.__version__)
        return number if self.flavour == "tensorrt" else f"rtx {number}"

    def targets(self) -> tuple[str, ...]:
        """Return the compute capabilities that this TensorRT builds for without a GPU; none for the full one."""
        if self.flavour == "tensorrt":
            return ()
        members = self.module.ComputeCapability.__members__
        return tuple(sorted((name[2:] for name in members if name[:2] == "SM" and name[2:].isdigit()), key=int))


def load_tensorrt(options: TensorRTOptions) -> TensorRT:
    """Import the TensorRT that the options ask for; without a choice, the full one before the one for RTX.

    Compute capabilities are a choice of TensorRT for RTX: only it builds without a GPU.

    Raises:
        MissingDependencyError: it is not installed, or its libraries do not load.
        EngineError: a TensorRT older than 10, or the full one for named compute capabilities.
    """
    if options.flavour == "tensorrt" and options.compute_capabilities:
        raise EngineError(
            "the full TensorRT builds only for the GPU that it runs on, not for named compute capabilities",
            remedy="pass --trt-flavour rtx, or leave out --compute-capability and build on that GPU",
        )
    wanted = options.flavour or ("rtx" if options.compute_capabilities else None)
    flavours: tuple[Flavour, ...] = ("tensorrt", "rtx") if wanted is None else (wanted,)
    reasons: list[str] = []
    for flavour in flavours:
        try:
            module = import_module(_MODULES[flavour])
        except (ImportError, OSError) as error:
            reasons.append(f"{_MODULES[flavour]}: {error}")
            continue
        if flavour == "tensorrt" and int(str(module.__version__).split(".")[0]) < _OLDEST_MAJOR:
            raise EngineError(f"TensorRT {module.__version__} is too old", remedy=_extra(flavour))
        return TensorRT(flavour, module)
    raise MissingDependencyError(
        f"no {' and no '.join(_TITLES[flavour] for flavour in flavours)} here ({'; '.join(reasons)})",
        remedy=" or ".join(map(_extra, flavours)),
    )


def _extra(flavour: Flavour) -> str:
    return f"pip install 'parnet-deploy[{_MODULES[flavour].replace('_', '-')}]'"


def check_options(tensorrt: TensorRT, options: TensorRTOptions, *, has_gpu: bool) -> None:
    """Refuse what this TensorRT cannot do.

    Raises:
        EngineError: an option that only the full TensorRT has, an unknown target, or no GPU for a build that needs it.
    """
    if tensorrt.flavour == "rtx":
        _check_rtx(tensorrt, options, has_gpu=has_gpu)
    if not has_gpu and not options.compute_capabilities:
        ahead = (
            f"; to build without one: --compute-capability {','.join(tensorrt.targets())}" if tensorrt.targets() else ""
        )
        raise EngineError(
            f"{tensorrt.title} finds no GPU here", remedy=f"use a machine with an NVIDIA GPU and its driver{ahead}"
        )


def _check_rtx(tensorrt: TensorRT, options: TensorRTOptions, *, has_gpu: bool) -> None:
    check_targets(tensorrt, options.compute_capabilities)
    if options.hardware_compatibility is not None or options.version_compatible:
        raise EngineError(
            "TensorRT for RTX has no hardware- or version-compatible builds",
            remedy="name all targets with --compute-capability, or pass --trt-flavour tensorrt",
        )
    if options.refit and not has_gpu:
        raise EngineError(
            "refittable engines are built on a GPU, and there is none here",
            remedy="leave out --refit, or build on the machine that has the GPU",
        )


def check_targets(tensorrt: TensorRT, capabilities: tuple[str, ...]) -> None:
    """Raise `EngineError` if TensorRT for RTX does not build for one of the compute capabilities."""
    unknown = [capability for capability in capabilities if capability not in tensorrt.targets()]
    if unknown:
        raise EngineError(
            f"{tensorrt.title} {tensorrt.module.__version__} cannot build for compute capability {', '.join(unknown)}",
            remedy=f"one of {', '.join(tensorrt.targets())}; others need the full TensorRT, on a machine with that GPU",
        )
