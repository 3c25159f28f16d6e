"""`parnet-deploy evaluate`: accuracy of a checkpoint, bundle or plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parnet_deploy.cli.common import JsonOption, emit, progress_bar
from parnet_deploy.cli.names import DATA, complete


def evaluate(
    artefact: Annotated[Path, typer.Argument(help="Checkpoint, bundle or plan.", show_default=False)],
    data: Annotated[
        str,
        typer.Argument(
            help="'digits', or a folder of images per class.", show_default=False, autocompletion=complete(DATA)
        ),
    ],
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Of a folder without a train part, only what `train` leaves out.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure top-1 and top-5 accuracy on labelled images.

    Example: parnet-deploy evaluate plan digits
    """
    from parnet_deploy.checks.evaluate import evaluate as measure
    from parnet_deploy.checks.evaluate import load_labelled
    from parnet_deploy.checks.predictors import open_predictor

    labelled = load_labelled(data, held_out=held_out)
    with open_predictor(artefact) as predictor, progress_bar(f"evaluating {artefact.name}", len(labelled)) as bar:
        accuracy = measure(predictor, labelled, progress=lambda done: bar.advance(bar.task_ids[0], done))
    result = {
        "artefact": str(artefact),
        "data": labelled.name,
        "count": accuracy.count,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "predictions": list(accuracy.predictions),
    }
    share = f"top-1 {accuracy.top1:.2f}%, top-5 {accuracy.top5:.2f}%"
    text = f"{artefact}: {share} of {accuracy.count} images ({labelled.name})"
    emit(result, text, as_json=as_json)
