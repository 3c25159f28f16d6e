"""What a build can be asked for beyond the bundle: devices, and the settings of one backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from parnet_deploy.artifacts.files import user_cache_dir
from parnet_deploy.artifacts.schemas import Lane, Plan
from parnet_deploy.errors import EngineError

Flavour = Literal["tensorrt", "rtx"]
HardwareCompatibility = Literal["ampere-plus", "same-compute-capability"]


@dataclass(frozen=True)
class TensorRTOptions:
    """Settings of the TensorRT builder; `None` leaves TensorRT's own default.

    `compute_capabilities` are targets such as `86`, built for without a GPU (TensorRT for RTX). `cache_dir` keeps
    engines and timings between builds.
    """

    flavour: Flavour | None = None
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    hardware_compatibility: HardwareCompatibility | None = None
    version_compatible: bool = False
    refit: bool = False
    detailed_profiling: bool = False
    cache_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise EngineError(
                f"a workspace of {self.workspace_bytes} bytes holds nothing", remedy="pass 1 or more, or leave it out"
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise EngineError(f"no builder optimisation level {self.optimization_level}", remedy="0 to 5; default: 3")

    def as_record(self) -> dict[str, str | int | bool]:
        """Return what an engine depends on beside the version, where it differs from the defaults."""
        kept = [item.name for item in fields(self) if item.name not in ("flavour", "cache_dir")]
        found = {name: getattr(self, name) for name in kept}
        changed = {name: value for name, value in found.items() if value != getattr(_DEFAULTS, name)}
        return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in changed.items()}


_DEFAULTS = TensorRTOptions()


@dataclass(frozen=True)
class BuildOptions:
    """Where a plan shall run and how its engines are built.

    `devices` are the GPUs' numbers, one lane on each; by default all stages are on the first, a stream each.
    `placement` says for each stage where it runs, instead. `tf32` lets GPUs round the inputs of float32 convolutions
    and products to 10 bits of mantissa: off, because precision is the bundle's. `memory_factor` is ncnn's: how many
    times the size of a stage's file its weights may take once they are loaded, from 1 to 4; more is faster.
    """

    devices: tuple[int, ...] | None = None
    placement: Mapping[str, Lane] | None = None
    tf32: bool = False
    memory_factor: float | None = None
    tensorrt: TensorRTOptions = field(default_factory=TensorRTOptions)

    def __post_init__(self) -> None:
        if self.devices is not None and (not self.devices or len(set(self.devices)) != len(self.devices)):
            raise EngineError(f"devices {list(self.devices)} are not a choice", remedy="name each device once")
        if self.devices is not None and self.placement is not None:
            raise EngineError("a placement names its devices itself", remedy="pass --devices or --placement")
        if self.memory_factor is not None and not 1 <= self.memory_factor <= 4:
            raise EngineError(
                f"no memory factor {self.memory_factor:g}", remedy="1 to 4; 4 is Winograd's F(4,3) everywhere"
            )

    def as_record(self) -> dict[str, str | int | float | bool]:
        """Return what an engine depends on beside the version and the device, where it differs from the defaults."""
        own: dict[str, str | int | float | bool] = {"tf32": True} if self.tf32 else {}
        if self.memory_factor is not None:
            own["memory_factor"] = self.memory_factor
        return {**own, **self.tensorrt.as_record()}


def options_of_plan(plan: Plan) -> BuildOptions:
    """Return the options that open a plan's backend: where both TensorRTs are installed, the one that built it."""
    tf32 = bool(plan.build_options.get("tf32", False))
    if plan.backend != "tensorrt":
        return BuildOptions(tf32=tf32)
    options = TensorRTOptions(
        flavour="rtx" if plan.backend_version.startswith("rtx ") else "tensorrt",
        version_compatible=bool(plan.build_options.get("version_compatible", False)),
        cache_dir=default_cache_dir(),
    )
    return BuildOptions(tf32=tf32, tensorrt=options)


def default_cache_dir() -> Path:
    """Return the user's cache folder for engines."""
    return user_cache_dir("tensorrt")


def parse_compute_capabilities(text: str) -> tuple[str, ...]:
    """Parse `86,8.9,sm120` as `("86", "89", "120")`, in ascending order, each once.

    Raises:
        EngineError: something that is no compute capability.
    """
    found = [part.strip().lower().removeprefix("sm").replace(".", "") for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 2 <= len(part) <= 3 for part in found):
        raise EngineError(f"{text!r} is no list of compute capabilities", remedy="for example: 86,89,120")
    return tuple(sorted(set(found), key=int))


def parse_devices(text: str) -> tuple[int, ...]:
    """Parse `0,1,2`.

    Raises:
        EngineError: something that is no list of device numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise EngineError(f"{text!r} is no list of devices", remedy="for example: 0,1,2")
    return tuple(int(part) for part in parts)


_ON_GPUS = ("tensorrt", "onnxruntime-cuda", "torch")
# What an option is called, and the backends that take it; a placement any does.
_TAKERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "devices": ("devices", _ON_GPUS),
    "tf32": ("TF32", _ON_GPUS),
    "memory_factor": ("memory factor", ("ncnn",)),
    "tensorrt": ("TensorRT options", ("tensorrt",)),
}
_NOTHING_ASKED = BuildOptions()


def check_options(options: BuildOptions, backend: str) -> None:
    """Raise `EngineError` for an option that is set and that a backend does not take."""
    for name, (title, takers) in _TAKERS.items():
        if getattr(options, name) != getattr(_NOTHING_ASKED, name) and backend not in takers:
            raise EngineError(
                f"backend {backend!r} takes no {title}",
                remedy=f"pass --backend {' or '.join(takers)}, or leave that out",
            )
