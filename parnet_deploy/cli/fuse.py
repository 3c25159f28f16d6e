"""`parnet-deploy fuse`: fold everything that can be folded, and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parnet_deploy.cli.common import CheckpointArgument, ForceOption, JsonOption, emit, spinner, stderr


def fuse(
    checkpoint: CheckpointArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Fused checkpoint to write (.safetensors).")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fuse a checkpoint: no batch norm, no concatenation, no shuffle left; prints the difference it makes.

    Example: parnet-deploy fuse parnet_l.safetensors -o parnet_l_fused.safetensors
    """
    from parnet_deploy.artifacts.files import refuse_file, refuse_source
    from parnet_deploy.artifacts.folders import open_card
    from parnet_deploy.fusion import fuse as fuse_network
    from parnet_deploy.fusion import fusion_difference
    from parnet_deploy.models.checkpoints import load_network, save_checkpoint

    refuse_file(output, force=force)
    refuse_source(output, checkpoint, "the fused checkpoint would replace the one it is made from")
    opened = open_card(checkpoint)
    card = opened.manifest
    if card.form == "fused":
        stderr().print(f"{checkpoint} is fused already; its weights are copied unchanged")
    with spinner("fusing and comparing in float64 and float32"):
        network = load_network(opened)
        difference = fusion_difference(network, size=card.preprocessing.input_size[1:])
        difference.check()
        fused = fuse_network(network)
        metrics = {
            **card.metrics,
            "fusion_relative_difference_float64": difference.float64.relative,
            "fusion_relative_difference_float32": difference.float32.relative,
        }
        made = save_checkpoint(
            output,
            fused,
            architecture=card.architecture,
            preprocessing=card.preprocessing,
            label_names=card.label_names,
            parent=opened.as_parent(),
            metrics=metrics if card.form == "training" else dict(card.metrics),
            origin={"made_by": "parnet-deploy fuse"} if card.form == "training" else dict(card.origin),
            force=force,
        )
    before = sum(p.numel() for p in network.parameters())
    after = sum(p.numel() for p in fused.parameters())
    result = {
        "checkpoint": str(output),
        "parameters_before": before,
        "parameters_after": after,
        "relative_difference": {"float64": difference.float64.relative, "float32": difference.float32.relative},
        "max_abs_difference": {"float64": difference.float64.max_abs, "float32": difference.float32.max_abs},
        "card": made.model_dump(mode="json"),
    }
    text = (
        f"{output}: {before:,} -> {after:,} parameters\n"
        f"difference: float64 {difference.float64.relative:.1e} relative, "
        f"float32 {difference.float32.relative:.1e} relative"
    )
    emit(result, text, as_json=as_json)
