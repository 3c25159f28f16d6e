"""`parnet-deploy init`: random weights with random batch norm statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parnet_deploy.artifacts.limits import MAX_SEED, MAX_SIDE, MAX_WIDTH
from parnet_deploy.cli.common import ForceOption, JsonOption, emit, spinner
from parnet_deploy.cli.import_ import ActivationName
from parnet_deploy.cli.names import VARIANTS, complete


def init(
    model: Annotated[
        str,
        typer.Argument(
            help="A registered variant; see: parnet-deploy models",
            show_default=False,
            autocompletion=complete(VARIANTS),
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write (.safetensors).")],
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same weights.")] = 0,
    classes: Annotated[int | None, typer.Option(min=1, max=MAX_WIDTH, help="Number of classes.")] = None,
    activation: Annotated[ActivationName | None, typer.Option(help="Activation; the variant's own is SiLU.")] = None,
    resolution: Annotated[int | None, typer.Option(min=1, max=MAX_SIDE, help="Input size in pixels, square.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint with random weights, to try the tool and to benchmark.

    Example: parnet-deploy init parnet_l --seed 0 -o parnet_l.safetensors
    """
    from parnet_deploy.artifacts.files import refuse_file
    from parnet_deploy.models.checkpoints import save_checkpoint
    from parnet_deploy.models.initialization import create_random_network
    from parnet_deploy.models.parnet import preprocessing_at
    from parnet_deploy.models.variants import get_variant

    refuse_file(output, force=force)
    variant = get_variant(model)
    changes = {"num_classes": classes, "activation": activation.value if activation else None}
    network = variant.network.model_copy(update={k: v for k, v in changes.items() if v is not None})
    preprocessing = preprocessing_at(network, variant.preprocessing, resolution)
    with spinner(f"drawing {model}"):
        card = save_checkpoint(
            output,
            create_random_network(network, seed),
            architecture=model,
            preprocessing=preprocessing,
            origin={"made_by": "parnet-deploy init", "seed": seed},
            force=force,
        )
    emit(card.model_dump(mode="json"), f"{output}: {model} with random weights, seed {seed}", as_json=as_json)
