"""`parnet-deploy hub-export`: a checkpoint becomes a folder that timm loads and the Hugging Face Hub takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parnet_deploy.cli.common import CheckpointArgument, ForceOption, JsonOption, emit, spinner


def hub_export(
    checkpoint: CheckpointArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    license_id: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Licence of the weights, as the Hub names it: bsd-3-clause."),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint, training form or fused, as model.safetensors, config.json and a model card.

    `parnet-deploy import FOLDER` is the way back.

    Example: parnet-deploy hub-export parnet_l.safetensors -o parnet_l_hub
    """
    from parnet_deploy.models.hub import export_hub_folder

    with spinner(f"writing {output}"):
        config = export_hub_folder(checkpoint, output, license_id=license_id, force=force)
    arguments = f" with {config.model_args}" if config.model_args else ""
    text = (
        f"{output}: timm model {config.architecture}{arguments}, {config.num_classes} classes\n"
        f'load it:   import timm, parnet_deploy.models; timm.create_model("local-dir:{output}", pretrained=True)\n'
        f"upload it: hf upload USER/NAME {output}"
    )
    emit({"folder": str(output), "config": config.model_dump(mode="json", exclude_none=True)}, text, as_json=as_json)
