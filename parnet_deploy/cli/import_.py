"""`parnet-deploy import`: the authors' released checkpoints, and repositories of the Hub, become ours."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from parnet_deploy.cli.common import ForceOption, JsonOption, emit, spinner

if TYPE_CHECKING:
    from parnet_deploy.artifacts.schemas import Card


class ActivationName(StrEnum):
    """Activations that a ParNet can have."""

    silu = "silu"
    relu = "relu"


EmaOption = Annotated[bool, typer.Option("--ema/--no-ema", help="Take the averaged weights where the file has them.")]
ActivationOption = Annotated[ActivationName | None, typer.Option(help="Override the activation.")]
ConfigOption = Annotated[Path | None, typer.Option(help="The YAML that the network was trained with.")]


def import_(
    source: Annotated[
        str,
        typer.Argument(
            help="A .pth.tar of the authors' release, a folder of the Hub's layout, or hf-hub:USER/NAME\\[@REVISION].",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write (.safetensors).")],
    ema: EmaOption = True,
    activation: ActivationOption = None,
    config: ConfigOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Import a checkpoint of the authors' released code, or a model of the Hugging Face Hub, safely.

    Example: parnet-deploy import planes_160_320_640_2560.pth.tar -o parnet_l.safetensors

    Example: parnet-deploy import hf-hub:USER/NAME -o parnet.safetensors
    """
    from parnet_deploy.models.checkpoints import refuse_checkpoint
    from parnet_deploy.models.importing import convert_authors_file
    from parnet_deploy.weights.hub import HUB_PREFIX

    refuse_checkpoint(output, force=force)
    if source.startswith(HUB_PREFIX) or Path(source).is_dir():
        _refuse_authors_options(source, ema=ema, activation=activation, config=config)
        card = _import_hub(source, output, force=force)
    else:
        with spinner(f"importing {Path(source).name}"):
            card = convert_authors_file(
                Path(source),
                output,
                ema=ema,
                activation=activation.value if activation else None,
                config=config,
                origin={"made_by": "parnet-deploy import"},
                force=force,
            )
    emit(card.model_dump(mode="json"), describe_imported(output, card), as_json=as_json)


def _refuse_authors_options(source: str, *, ema: bool, activation: ActivationName | None, config: Path | None) -> None:
    from parnet_deploy.errors import CheckpointError

    if not ema or activation is not None or config is not None:
        raise CheckpointError(
            "config.json says which network this is; --no-ema, --activation and --config are for the authors' files",
            where=source,
            remedy="leave them out",
        )


def _import_hub(source: str, output: Path, *, force: bool) -> Card:
    from parnet_deploy.models.hub import import_hub_folder
    from parnet_deploy.weights.hub import HUB_PREFIX, fetch_hub_repository

    origin = {"made_by": "parnet-deploy import"}
    folder = Path(source)
    if source.startswith(HUB_PREFIX):
        found = fetch_hub_repository(source.removeprefix(HUB_PREFIX))
        folder = found.folder
        origin |= {"hub_repository": found.repository, "hub_commit": found.commit}
    with spinner(f"importing {source}"):
        return import_hub_folder(folder, output, origin=origin, force=force)


def describe_imported(output: Path, card: Card) -> str:
    """Say what an imported checkpoint is, and which weights and which activation were taken."""
    cfg = card.network
    lines = [
        f"{output}: {card.architecture}, planes {list(cfg.planes)} + {cfg.last_planes}, "
        f"blocks {list(cfg.num_blocks)}, {cfg.num_classes} classes" + (", fused" if card.form == "fused" else "")
    ]
    if "weight_set" in card.origin:
        lines.append(f"weights: {card.origin['weight_set']}")
    reason = card.origin.get("activation_reason", "config.json")
    return "\n".join([*lines, f"activation: {cfg.activation} ({reason})"])
