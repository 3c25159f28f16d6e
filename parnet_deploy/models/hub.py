"""Checkpoints as folders of the Hugging Face Hub, `model.safetensors` and `config.json`, and back."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from parnet_deploy.artifacts.files import read_json, replacing_folder, sha256_of_file, validate
from parnet_deploy.artifacts.folders import open_card
from parnet_deploy.artifacts.schemas import Card, NetworkConfig, Parent
from parnet_deploy.errors import ArtifactError, CheckpointError, NetworkError
from parnet_deploy.models.checkpoints import (
    check_weights,
    load_network,
    network_without_data,
    refuse_checkpoint,
    save_checkpoint,
)
from parnet_deploy.models.hub_card import model_card
from parnet_deploy.models.hub_config import HubConfig, config_of_card, network_of_config
from parnet_deploy.models.variants import architecture_of

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
MODEL_CARD_NAME = "README.md"
_WRITE_AGAIN = "write it with timm, or with: parnet-deploy hub-export"


def export_hub_folder(
    checkpoint: Path, output: Path, *, license_id: str | None = None, force: bool = False
) -> HubConfig:
    """Write a checkpoint as a folder that timm loads and the Hub takes; the weights are copied byte for byte.

    Raises:
        OutputExistsError: the output exists and `force` is not set, or holds other files.
        ArtifactError, CheckpointError: the checkpoint is missing, damaged or inconsistent.
    """
    opened = open_card(checkpoint)
    config = config_of_card(opened.manifest)
    parameters = sum(parameter.numel() for parameter in load_network(opened).parameters())
    with replacing_folder(output, force=force, is_ours=_is_hub_folder) as temporary:
        shutil.copyfile(checkpoint, temporary / WEIGHTS_NAME)
        text = config.model_dump_json(indent=2, exclude_none=True)
        (temporary / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        card = model_card(opened.manifest, config, parameters, license_id=license_id)
        (temporary / MODEL_CARD_NAME).write_text(card, encoding="utf-8")
    return config


def _is_hub_folder(folder: Path) -> bool:
    return {entry.name for entry in folder.iterdir()} == {WEIGHTS_NAME, CONFIG_NAME, MODEL_CARD_NAME}


def import_hub_folder(folder: Path, output: Path, *, origin: Mapping[str, Any], force: bool = False) -> Card:
    """Write a folder of the Hub's layout as a checkpoint; only safetensors are read.

    Raises:
        OutputExistsError: the output exists and `force` is not set.
        ArtifactError: a file is missing, or `config.json` is not one of timm.
        NetworkError: the configuration makes no network of this package; see `network_of_config`.
        CheckpointError: the weights are not readable, or not those of the configuration.
    """
    refuse_checkpoint(output, force=force)
    config = read_config(folder)
    weights_path = folder / WEIGHTS_NAME
    try:
        network, form, preprocessing = network_of_config(config)
    except NetworkError as error:
        raise NetworkError(error.what, where=folder / CONFIG_NAME, remedy=error.remedy) from error
    weights = _read_weights(weights_path)
    _refuse_larger(network, weights, weights_path)
    model = network_without_data(network, form)
    check_weights(model, weights, weights_path)
    model.load_state_dict(weights, assign=True)
    return save_checkpoint(
        output,
        model,
        architecture=architecture_of(network),
        preprocessing=preprocessing,
        label_names=config.label_names,
        parent=Parent(kind="file", name=WEIGHTS_NAME, sha256=sha256_of_file(weights_path)),
        origin=dict(origin),
        force=force,
    )


def read_config(folder: Path) -> HubConfig:
    """Read `config.json`; raise `ArtifactError` if it is missing or not one that timm writes."""
    path = folder / CONFIG_NAME
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            others = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no folder"
            raise ArtifactError(
                f"no {name} here, so this is no folder of the Hub's layout ({others or 'it is empty'})",
                where=folder,
                remedy="pickled weights are never read: save them as model.safetensors beside timm's config.json",
            )
    content, _ = read_json(path, kind="model")
    return validate(HubConfig, content, where=path, remedy=_WRITE_AGAIN)


def _refuse_larger(network: NetworkConfig, weights: Mapping[str, Tensor], where: Path) -> None:
    """Raise `CheckpointError` for a network that needs more than the file holds, before building it takes for ever."""
    widest = max(*network.stem, *network.planes, network.last_planes, network.num_classes, network.in_chans)
    if sum(network.num_blocks) > len(weights) or widest > sum(tensor.numel() for tensor in weights.values()):
        raise CheckpointError(
            "too few weights for the network of config.json", where=where, remedy="pass both files of one model"
        )


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"not readable as safetensors ({error})", where=path, remedy=_WRITE_AGAIN) from error
