"""Names that commands take, for shell completion: without importing what they name, which may take seconds.

`tests/cli/test_completion.py` holds each of them to its registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

BACKENDS = ("onnxruntime", "onnxruntime-cuda", "tensorrt", "torch", "ncnn", "openvino", "null")
DATA = ("digits",)
DEVICE_PROFILES = ("rtx3090", "h100", "h100-bf16", "h100-int8", "h100-fp8")
LINKS = ("nvlink4", "pcie4x16", "pcie3x16")
PARTITIONS = ("whole", "streams", "shared-stem", "terms", "terms-shared-stem")
RECIPES = ("digits", "images")
RELEASED = ("parnet-s", "parnet-m", "parnet-l", "parnet-xl", "parnet-xl-reg-se13", "parnet-xl-352")
VARIANTS = (
    *("parnet_s", "parnet_m", "parnet_l", "parnet_xl"),
    *("parnet_m_onestream", "parnet_m_twostream", "parnet_m_fourstream"),
    *("parnet_cifar_s", "parnet_cifar_m", "parnet_cifar_l"),
    *("parnet_nano", "parnet_pico"),
)


def complete(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return the function that a shell's completion asks; where it proposes nothing, the shell proposes files."""

    def propose(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return propose
