"""Which backends take a quantised bundle, and where it runs in integers (docs/quantization.md)."""

from __future__ import annotations

from collections.abc import Sequence

from parnet_deploy.artifacts.quantization import Target
from parnet_deploy.artifacts.schemas import Bundle, DeviceRecord
from parnet_deploy.errors import EngineError

# Targets whose form a backend can read, and those among them that it turns into integer arithmetic.
_READS: dict[str, tuple[Target, ...]] = {
    "onnxruntime": ("cpu", "openvino", "tensorrt"),
    "openvino": ("cpu", "openvino"),
    "tensorrt": ("tensorrt",),
    "null": ("cpu", "openvino", "tensorrt"),
}
_RUNS_IN_INTEGERS: dict[str, tuple[Target, ...]] = {**_READS, "onnxruntime": ("cpu",)}

# Tensor cores compute in float8 from Ada Lovelace (8.9) on.
_LEAST_FP8_CAPABILITY = 89


def check_form(bundle: Bundle, backend: str) -> None:
    """Check that a backend takes a bundle in the form that it is quantised in, if it is.

    Raises:
        EngineError: the form is for another backend.
    """
    if bundle.quantization is None:
        return
    target, readable = bundle.quantization.target, _READS.get(backend, ())
    if target not in readable:
        takes = f"takes what is quantised for {', '.join(readable)}" if readable else "takes no quantised bundles"
        raise EngineError(
            f"the bundle is quantised for {target}, and backend {backend!r} {takes}",
            remedy=f"quantise with --target {readable[0]}" if readable else "build from the float32 bundle",
        )


def check_capability(bundle: Bundle, devices: Sequence[DeviceRecord]) -> None:
    """Check that GPUs have the arithmetic of a bundle in float8.

    Raises:
        EngineError: a GPU without it.
    """
    if bundle.precision != "fp8":
        return
    for device in devices:
        for name in device.capability.split():
            if name.startswith("sm") and int(name[2:].rstrip("+")) < _LEAST_FP8_CAPABILITY:
                raise EngineError(
                    f"the bundle is in fp8, which needs compute capability 8.9; {device.device} is {device.name}",
                    remedy="quantise with --precision int8, or build for later GPUs only",
                )


def slow_form(bundle: Bundle, backend: str) -> str | None:
    """Say why a backend will run a quantised bundle no faster than float32, or nothing."""
    if bundle.quantization is None or bundle.quantization.target in _RUNS_IN_INTEGERS.get(backend, ()):
        return None
    return (
        f"quantised for {bundle.quantization.target}: {backend} computes it in float, no faster than float32; for "
        f"{backend} quantise with --target {_RUNS_IN_INTEGERS[backend][0]}"
    )
