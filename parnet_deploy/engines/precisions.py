"""Which backends take a bundle's precision, and where a quantised one runs in integers (docs/quantization.md)."""

from __future__ import annotations

from collections.abc import Sequence

from parnet_deploy.artifacts.quantization import Target
from parnet_deploy.artifacts.schemas import Bundle, DeviceRecord, Precision
from parnet_deploy.engines.cpu import products_saturate
from parnet_deploy.errors import EngineError

# Targets whose form a backend can read, and those among them that it turns into integer arithmetic.
_READS: dict[str, tuple[Target, ...]] = {
    "onnxruntime": ("cpu", "openvino", "tensorrt"),
    "openvino": ("cpu", "openvino"),
    "tensorrt": ("tensorrt",),
    "null": ("cpu", "openvino", "tensorrt"),
}
_RUNS_IN_INTEGERS: dict[str, tuple[Target, ...]] = {**_READS, "onnxruntime": ("cpu",)}

# ONNX Runtime has no bfloat16 convolution for processors; ncnn takes float32 alone.
_COMPUTES_BFLOAT16 = ("openvino", "tensorrt", "null")

# OpenVINO has no other kernels for processors whose products saturate; ONNX Runtime has, and takes them.
_SATURATES = ("openvino",)

# Tensor cores compute in float8 from Ada Lovelace (8.9) on, in bfloat16 from Ampere (8.0) on.
_LEAST_CAPABILITY: dict[Precision, int] = {"fp8": 89, "bf16": 80}


def check_form(bundle: Bundle, backend: str) -> None:
    """Check that a backend takes a bundle's precision, and the form that it is quantised in if it is.

    Raises:
        EngineError: the precision or the form is for another backend.
    """
    if bundle.precision == "bf16" and backend not in _COMPUTES_BFLOAT16:
        raise EngineError(
            f"the bundle is in bf16, which backend {backend!r} does not compute",
            remedy=f"build with {' or '.join(_COMPUTES_BFLOAT16[:2])}, or export with --precision fp32 or fp16",
        )
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
    """Check that GPUs have the arithmetic of a bundle in float8 or bfloat16.

    Raises:
        EngineError: a GPU without it.
    """
    least = _LEAST_CAPABILITY.get(bundle.precision, 0)
    remedy = "quantise with --precision int8" if bundle.precision == "fp8" else "export with --precision fp16"
    for device in devices:
        for name in device.capability.split():
            if name.startswith("sm") and int(name[2:].rstrip("+")) < least:
                raise EngineError(
                    f"the bundle is in {bundle.precision}, which needs compute capability {least / 10}; "
                    f"{device.device} is {device.name}",
                    remedy=f"{remedy}, or build for later GPUs only",
                )


def slow_form(bundle: Bundle, backend: str) -> str | None:
    """Say why a backend will run a quantised bundle no faster than float32, or nothing."""
    if bundle.quantization is None or bundle.quantization.target in _RUNS_IN_INTEGERS.get(backend, ()):
        return None
    return (
        f"quantised for {bundle.quantization.target}: {backend} computes it in float, no faster than float32; for "
        f"{backend} quantise with --target {_RUNS_IN_INTEGERS[backend][0]}"
    )


def saturating_form(bundle: Bundle, backend: str, flags: frozenset[str]) -> str | None:
    """Say why a processor with these feature flags will answer a quantised bundle otherwise than asked, or nothing."""
    if bundle.quantization is None or bundle.quantization.weight_bits == 7:
        return None
    if backend not in _SATURATES or slow_form(bundle, backend) is not None or not products_saturate(flags):
        return None
    return (
        f"this processor has no VNNI, and {backend}'s int8 sums may saturate on it: compare the plan with its bundle "
        "(parnet-deploy verify BUNDLE PLAN --tolerance 0.05), or quantise with --weight-bits 7"
    )
