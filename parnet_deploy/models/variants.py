"""The registered variants: table A1 (ImageNet), table 10 (number of streams), table 6 (CIFAR), and two small ones.

What the paper leaves open is chosen so. Fewer or more streams than three: the deepest stream stays at 1/16 of the input
and streams are added or dropped at the fine end, so that every ImageNet variant takes multiples of 32 and is 12 deep;
widths of the one- and two-stream nets give ParNet-M's parameters (table 8: 36.0 M). CIFAR: widths p, 2p, 4p in the
three streams as on ImageNet, p the largest multiple of 8 whose convolutions leave room for the last 1x1 convolution,
and that one's width the multiple of 128 that brings the fused parameters nearest to table 6 (1.3, 15.5 and 35 M).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from parnet_deploy.artifacts.schemas import NetworkConfig, Preprocessing
from parnet_deploy.errors import NetworkError
from parnet_deploy.models.parnet import Form, ParNet


@dataclass(frozen=True)
class Variant:
    """A named configuration, its input and what the paper reports for it."""

    network: NetworkConfig
    preprocessing: Preprocessing
    source: str
    paper_top1: float | None = None
    paper_dataset: str | None = None


_IMAGENET = Preprocessing()
# CIFAR images are not resized; statistics as commonly used for CIFAR-10.
_CIFAR = Preprocessing(
    input_size=(3, 32, 32), mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), crop_pct=1.0
)


def _imagenet(p1: int, p2: int, p3: int, last: int) -> NetworkConfig:
    return NetworkConfig(stem=(min(64, p1), p1), planes=(p1, p2, p3), num_blocks=(4, 5, 5), last_planes=last)


def _cifar(width: int, last: int) -> NetworkConfig:
    return NetworkConfig(
        stem=(width, width, width),
        stem_stride=1,
        planes=(width, 2 * width, 4 * width),
        num_blocks=(3, 4, 4),
        last_planes=last,
        last="conv1x1",
        num_classes=10,
        drop_rate=0.2,
    )


VARIANTS: dict[str, Variant] = {
    "parnet_s": Variant(_imagenet(96, 192, 384, 1280), _IMAGENET, "table A1", 75.19, "ImageNet"),
    "parnet_m": Variant(_imagenet(128, 256, 512, 2048), _IMAGENET, "table A1", 76.60, "ImageNet"),
    "parnet_l": Variant(_imagenet(160, 320, 640, 2560), _IMAGENET, "table A1", 77.66, "ImageNet"),
    "parnet_xl": Variant(_imagenet(200, 400, 800, 3200), _IMAGENET, "table A1", 78.55, "ImageNet"),
    "parnet_m_onestream": Variant(
        NetworkConfig(stem=(64, 144, 288, 576), planes=(576,), num_blocks=(6,), last_planes=2048),
        _IMAGENET,
        "tables 8 and 10",
        75.83,
        "ImageNet",
    ),
    "parnet_m_twostream": Variant(
        NetworkConfig(stem=(64, 132, 264), planes=(264, 528), num_blocks=(5, 5), last_planes=2048),
        _IMAGENET,
        "table 10",
        76.10,
        "ImageNet",
    ),
    "parnet_m_fourstream": Variant(
        NetworkConfig(stem=(64,), planes=(64, 128, 256, 512), num_blocks=(4, 4, 5, 5), last_planes=2048),
        _IMAGENET,
        "table 10",
        76.34,
        "ImageNet",
    ),
    "parnet_cifar_s": Variant(_cifar(32, 384), _CIFAR, "table 6", 95.00, "CIFAR-10"),
    "parnet_cifar_m": Variant(_cifar(112, 640), _CIFAR, "table 6", 96.10, "CIFAR-10"),
    "parnet_cifar_l": Variant(_cifar(168, 1152), _CIFAR, "table 6", 96.12, "CIFAR-10"),
    # Not in the paper: small enough to train on two cores, for the demo and for tests.
    "parnet_nano": Variant(_cifar(16, 128), _CIFAR, "section 3.3, narrow"),
    "parnet_pico": Variant(_imagenet(16, 32, 64, 128), _IMAGENET, "table A1, narrow"),
}


def get_variant(name: str) -> Variant:
    """Return a registered variant; raise `NetworkError` for an unknown name."""
    if name not in VARIANTS:
        raise NetworkError(f"no model {name!r}", remedy=f"one of: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def architecture_of(network: NetworkConfig) -> str:
    """Return the variant that a network is, apart from its classes, channels, activation and dropout; else `parnet`."""

    def shape(cfg: NetworkConfig) -> NetworkConfig:
        return cfg.model_copy(update={"num_classes": 1, "in_chans": 3, "activation": "silu", "drop_rate": 0.0})

    return next((name for name, known in VARIANTS.items() if shape(known.network) == shape(network)), "parnet")


# The convolutions that see the image. timm adapts them all to another number of channels; the gate is one of them.
INPUT_CONVS: dict[Form, tuple[str, ...]] = {
    "training": ("stem.0.branches.dense.conv", "stem.0.branches.pointwise.conv", "stem.0.gate"),
    "fused": ("stem.0.conv", "stem.0.gate"),
}


def _timm_cfg(variant: Variant) -> dict[str, Any]:
    pre = variant.preprocessing
    return {
        "num_classes": variant.network.num_classes,
        "input_size": pre.input_size,
        "pool_size": None,
        "mean": pre.mean,
        "std": pre.std,
        "interpolation": pre.interpolation,
        "crop_pct": pre.crop_pct,
        "first_conv": INPUT_CONVS["training"],
        "classifier": "head.fc",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({f"{name}.untrained": _timm_cfg(variant) for name, variant in VARIANTS.items()})


def _entry_point(name: str) -> Callable[..., ParNet]:
    def create(pretrained: bool = False, **kwargs: Any) -> ParNet:
        variant = VARIANTS[name]
        return build_model_with_cfg(  # type: ignore[no-any-return]
            ParNet,
            name,
            pretrained,
            model_cfg=variant.network,
            feature_cfg={"out_indices": tuple(range(variant.network.num_streams + 1)), "feature_cls": "getter"},
            **kwargs,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Create {name} ({VARIANTS[name].source}); keyword arguments replace fields of `NetworkConfig`."
    return create


for _name in VARIANTS:
    register_model(_entry_point(_name))
