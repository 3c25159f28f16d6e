"""Decide, before anything is written, which network is trained on a data set and how."""

from __future__ import annotations

from typing import Literal

from parnet_deploy.artifacts.schemas import SCHEMA_VERSION, Frozen, NetworkConfig, Positive, Preprocessing
from parnet_deploy.datasets.images import ImageDataset
from parnet_deploy.models.blocks import Activation
from parnet_deploy.models.parnet import preprocessing_at
from parnet_deploy.models.variants import get_variant
from parnet_deploy.training.recipe import Recipe


class RunSettings(Frozen):
    """`run.json` of a run folder: everything that a training run is a function of, but for the pixels."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["training-run"] = "training-run"
    architecture: str
    network: NetworkConfig
    preprocessing: Preprocessing
    recipe: Recipe
    data: str
    label_names: tuple[str, ...]
    train_images: Positive
    held_out_images: Positive


def plan_training(
    data: ImageDataset,
    architecture: str,
    recipe: Recipe,
    *,
    activation: Activation | None = None,
    resolution: int | None = None,
) -> RunSettings:
    """Fit a registered variant to the data's classes and, if given, to a square input size in pixels.

    Raises:
        NetworkError: no such variant, or a resolution that it cannot take.
    """
    variant = get_variant(architecture)
    network = variant.network.model_copy(
        update={"num_classes": len(data.label_names), "activation": activation or variant.network.activation}
    )
    return RunSettings(
        architecture=architecture,
        network=network,
        preprocessing=preprocessing_at(network, variant.preprocessing, resolution),
        recipe=recipe,
        data=data.name,
        label_names=data.label_names,
        train_images=len(data.train),
        held_out_images=len(data.test),
    )
