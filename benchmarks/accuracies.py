"""Published ImageNet accuracies of the networks that are timed, with their sources. Nothing here was measured by us."""

from __future__ import annotations

from dataclasses import dataclass

_PAPER = "Non-deep Networks (arXiv 2110.07641), table 2 and table A1"
_TORCHVISION = "torchvision's documentation of its weights"


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy on ImageNet's validation images at 224 pixels, in percent."""

    network: str
    training: str
    top1: float
    source: str


ACCURACIES = (
    Accuracy("parnet_s", "paper", 75.19, _PAPER),
    Accuracy("parnet_m", "paper", 76.60, _PAPER),
    Accuracy("parnet_l", "paper", 77.66, _PAPER),
    Accuracy("parnet_xl", "paper", 78.55, _PAPER),
    # Trained by the authors of ParNet with their own recipe.
    Accuracy("resnet34", "paper's recipe", 74.12, _PAPER),
    Accuracy("resnet50", "paper's recipe", 77.53, _PAPER),
    Accuracy("resnet34", "IMAGENET1K_V1", 73.314, _TORCHVISION),
    Accuracy("resnet50", "IMAGENET1K_V1", 76.13, _TORCHVISION),
    Accuracy("resnet50", "IMAGENET1K_V2", 80.858, _TORCHVISION),
)
