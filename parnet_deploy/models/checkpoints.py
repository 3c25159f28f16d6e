"""Save and load checkpoints: `NAME.safetensors` with its card `NAME.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from parnet_deploy.artifacts.files import refuse_file, replacing_file, sealed_bytes
from parnet_deploy.artifacts.folders import OpenCard, card_path_of, open_card
from parnet_deploy.artifacts.schemas import Card, FileRecord, NetworkConfig, Parent, Preprocessing
from parnet_deploy.errors import CheckpointError
from parnet_deploy.models.parnet import Form, ParNet

_FOREIGN = "these weights are of another network"


def create_network(cfg: NetworkConfig, form: Form = "training") -> ParNet:
    """Build a network in eval mode with fresh weights."""
    return ParNet(cfg, form).eval()


def refuse_checkpoint(output: Path, *, force: bool) -> None:
    """Raise `CheckpointError` or `OutputExistsError` unless a checkpoint may be written, before the work is done."""
    if output.suffix != ".safetensors":
        raise CheckpointError(
            "the name of a checkpoint must end in .safetensors", where=output, remedy="for example model.safetensors"
        )
    for path in (output, card_path_of(output)):
        refuse_file(path, force=force)


def save_checkpoint(
    path: Path,
    model: ParNet,
    *,
    architecture: str,
    preprocessing: Preprocessing,
    label_names: tuple[str, ...] | None = None,
    parent: Parent | None = None,
    metrics: dict[str, float] | None = None,
    origin: dict[str, Any] | None = None,
    force: bool = False,
) -> Card:
    """Write the weights and their card, each whole or not at all, the card last; return the card.

    Raises:
        OutputExistsError: either file exists and `force` is not set.
        CheckpointError: the path does not end in .safetensors, or the weights could not be loaded again: not float32,
            not finite, merged by timm, or without a classifier.
    """
    refuse_checkpoint(path, force=force)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    check_weights(network_without_data(model.cfg, model.form), weights, path)
    _check_finite(weights, path)
    # Both are whole before the first takes its place, so that a full disk costs neither of two older ones.
    with (
        replacing_file(card_path_of(path), force=force) as temporary_card,
        replacing_file(path, force=force) as temporary,
    ):
        _write_weights(temporary, weights, path)
        card = Card(
            architecture=architecture,
            network=model.cfg,
            form=model.form,
            preprocessing=preprocessing,
            label_names=label_names,
            weights=FileRecord.of(temporary, name=path.name),
            parent=parent,
            metrics=metrics or {},
            origin=origin or {},
        )
        temporary_card.write_bytes(sealed_bytes(card))
    return card


def _write_weights(temporary: Path, weights: dict[str, Tensor], path: Path) -> None:
    try:
        safetensors.torch.save_file(weights, temporary, metadata={"format": "pt"})
    except SafetensorError as error:  # its own name for errors of the file system
        raise CheckpointError(
            f"cannot be written ({error})", where=path, remedy="check permissions and free space"
        ) from error


def load_checkpoint(path: str | Path) -> nn.Module:
    """Return the network of a checkpoint in eval mode, float32 on the CPU.

    Raises:
        ArtifactError: the card or the weights are missing, damaged or of another schema.
        CheckpointError: the weights do not fit the card's network, or are not finite.
    """
    return load_network(open_card(Path(path)))


def load_network(opened: OpenCard) -> ParNet:
    """Return the network of a checkpoint whose card is open; see `load_checkpoint`."""
    path = opened.weights_path
    try:
        weights = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        what = f"not readable as safetensors ({error})"
        raise CheckpointError(what, where=path, remedy="make the checkpoint again, or take an earlier one") from error
    _check_finite(weights, path)
    model = network_without_data(opened.manifest.network, opened.manifest.form)
    check_weights(model, weights, path)
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def network_without_data(cfg: NetworkConfig, form: Form) -> ParNet:
    """Build a network whose weights have shapes but no numbers, to be given some by `load_state_dict(assign=True)`."""
    with torch.device("meta"):
        return ParNet(cfg, form)


def check_weights(model: ParNet, weights: dict[str, Tensor], where: Path) -> None:
    """Raise `CheckpointError` naming the first weight that is missing, unexpected or of another shape."""
    expected = model.state_dict()
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights:
            raise CheckpointError(f"the weight {name} is missing", where=where, remedy=_FOREIGN)
        if name not in expected:
            raise CheckpointError(f"unexpected weight {name}", where=where, remedy=_FOREIGN)
        if weights[name].shape != expected[name].shape or weights[name].dtype != expected[name].dtype:
            raise CheckpointError(
                f"{name} is {list(weights[name].shape)} {weights[name].dtype}, "
                f"but the network takes {list(expected[name].shape)} {expected[name].dtype}",
                where=where,
                remedy=_FOREIGN,
            )


def _check_finite(weights: dict[str, Tensor], where: Path) -> None:
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{name} holds NaN or infinite numbers", where=where, remedy="take an earlier checkpoint"
            )
