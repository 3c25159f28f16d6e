"""`config.json` of a Hugging Face Hub repository, as timm reads and writes it.

`architecture` is a registered model and `model_args` are its keyword arguments, so timm builds the network from both.
This package's models take every field of `NetworkConfig`, and `form`; what a network has in common with the registered
variant is left out. As in timm, the classes come from `num_classes` and the channels from the input size, unless
`model_args` says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from parnet_deploy.artifacts.schemas import Card, Finite, NetworkConfig, Positive, Preprocessing, Scale, Side
from parnet_deploy.errors import NetworkError
from parnet_deploy.models.parnet import Form, check_resolution
from parnet_deploy.models.variants import INPUT_CONVS, VARIANTS, get_variant


class _Open(BaseModel):
    """Immutable, and open: timm writes more fields than matter here, and newer versions write others."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class HubPretrainedConfig(_Open):
    """How images are prepared, and where the network meets channels and classes."""

    input_size: tuple[Positive, Side, Side]
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Scale, Scale, Scale]
    interpolation: Literal["bilinear", "bicubic", "nearest"]
    crop_pct: Annotated[float, Field(ge=0.01, le=1)]
    crop_mode: Literal["center"] = "center"
    num_classes: Positive | None = None
    first_conv: tuple[str, ...] | str | None = None
    classifier: str | None = None


class HubConfig(_Open):
    """`config.json`."""

    architecture: str
    num_classes: Positive
    num_features: Positive | None = None
    global_pool: Literal["avg"] = "avg"
    model_args: dict[str, Any] = {}
    label_names: tuple[str, ...] | None = None
    pretrained_cfg: HubPretrainedConfig


def config_of_card(card: Card) -> HubConfig:
    """Return the configuration by which timm builds and loads a checkpoint's network."""
    architecture, model_args = _express(card.network)
    if card.form != "training":
        model_args["form"] = card.form
    pre = card.preprocessing
    return HubConfig(
        architecture=architecture,
        num_classes=card.network.num_classes,
        num_features=card.network.last_planes,
        model_args=model_args,
        label_names=card.label_names,
        pretrained_cfg=HubPretrainedConfig(
            **pre.model_dump(),
            num_classes=card.network.num_classes,
            # timm adapts weights to other channels from three only.
            first_conv=INPUT_CONVS[card.form] if card.network.in_chans == 3 else None,
            classifier="head.fc",
        ),
    )


def _express(network: NetworkConfig) -> tuple[str, dict[str, Any]]:
    """Return the registered variant that a network is nearest to, and the fields in which they differ."""
    fields = network.model_dump(mode="json")

    def differences(name: str) -> dict[str, Any]:
        known = VARIANTS[name].network.model_dump(mode="json")
        return {field: value for field, value in fields.items() if known[field] != value}

    name = min(VARIANTS, key=lambda name: len(differences(name)))
    return name, differences(name)


def network_of_config(config: HubConfig) -> tuple[NetworkConfig, Form, Preprocessing]:
    """Return the network that timm builds by a configuration, its form, and how images are prepared.

    Raises:
        NetworkError: an unknown architecture, arguments that make no network, classes or labels that disagree, or an
            input size that the network cannot take.
    """
    variant = get_variant(config.architecture)
    arguments = dict(config.model_args)
    form = arguments.pop("form", "training")
    if form not in get_args(Form):
        raise NetworkError(f"model_args.form is {form!r}", remedy=f"one of: {', '.join(get_args(Form))}")
    if arguments.pop("global_pool", "avg") != "avg":
        raise NetworkError("ParNet pools by average only", remedy="leave global_pool at 'avg'")
    given = {"num_classes": config.num_classes, "in_chans": config.pretrained_cfg.input_size[0], **arguments}
    try:
        network = NetworkConfig.model_validate({**variant.network.model_dump(), **given})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the network"
        raise NetworkError(f"model_args, {field}: {first['msg']}", remedy="see the fields of NetworkConfig") from error
    _check_counts(config, network)
    told = {field: getattr(config.pretrained_cfg, field) for field in Preprocessing.model_fields}
    _, height, width = config.pretrained_cfg.input_size
    preprocessing = Preprocessing.model_validate({**told, "input_size": (network.in_chans, height, width)})
    check_resolution(network, height, width)
    return network, form, preprocessing


def _check_counts(config: HubConfig, network: NetworkConfig) -> None:
    pre = config.pretrained_cfg
    labels = network.num_classes if config.label_names is None else len(config.label_names)
    counts = {
        "classes": {network.num_classes, config.num_classes, pre.num_classes or config.num_classes},
        "classes and label names": {network.num_classes, labels},
    }
    for what, found in counts.items():
        if len(found) > 1:
            raise NetworkError(
                f"{what} disagree: {' and '.join(map(str, sorted(found)))}",
                remedy="write it with timm, or with: parnet-deploy hub-export",
            )
