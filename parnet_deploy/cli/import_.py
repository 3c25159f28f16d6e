"""`parnet-deploy import`: the authors' released checkpoints become ours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from parnet_deploy.cli.common import ForceOption, JsonOption, emit, spinner


class ActivationName(StrEnum):
    """Activations that a ParNet can have."""

    silu = "silu"
    relu = "relu"


def import_(
    file: Annotated[Path, typer.Argument(help="A .pth.tar file of the authors' release.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write (.safetensors).")],
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="Take the averaged weights where the file has them.")
    ] = True,
    activation: Annotated[ActivationName | None, typer.Option(help="Override the activation.")] = None,
    config: Annotated[Path | None, typer.Option(help="The YAML that the network was trained with.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a checkpoint of the authors' released code, safely.

    Example: parnet-deploy import planes_160_320_640_2560.pth.tar -o parnet_l.safetensors
    """
    from parnet_deploy.artifacts.files import refuse_existing, sha256_of_file
    from parnet_deploy.artifacts.schemas import Parent, Preprocessing
    from parnet_deploy.models.authors import import_checkpoint
    from parnet_deploy.models.checkpoints import save_checkpoint
    from parnet_deploy.models.variants import architecture_of

    refuse_existing(output, force=force)
    with spinner(f"importing {file.name}"):
        found = import_checkpoint(file, ema=ema, activation=activation.value if activation else None, config=config)
        origin = {
            "made_by": "parnet-deploy import",
            "weight_set": found.weight_set,
            "activation_reason": found.activation_reason,
        }
        if found.epoch is not None:
            origin["epoch"] = str(found.epoch)
        card = save_checkpoint(
            output,
            found.model,
            architecture=architecture_of(found.model.cfg),
            preprocessing=Preprocessing(input_size=(found.model.cfg.in_chans, 224, 224)),
            parent=Parent(kind="file", name=file.name, sha256=sha256_of_file(file)),
            origin=origin,
            force=force,
        )
    cfg = card.network
    text = (
        f"{output}: {card.architecture}, planes {list(cfg.planes)} + {cfg.last_planes}, "
        f"blocks {list(cfg.num_blocks)}, {cfg.num_classes} classes\n"
        f"weights: {found.weight_set}\nactivation: {cfg.activation} ({found.activation_reason})"
    )
    emit(card.model_dump(mode="json"), text, as_json=as_json)
