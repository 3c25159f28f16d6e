"""`parnet-deploy train`: a ParNet trained on digits or on a folder of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parnet_deploy.artifacts.limits import MAX_BATCH, MAX_EPOCHS, MAX_FACTOR, MAX_SEED, MAX_SIDE, MAX_WORKERS
from parnet_deploy.cli.common import ForceOption, JsonOption, emit, finite, progress_bar, stderr
from parnet_deploy.cli.import_ import ActivationName
from parnet_deploy.cli.names import DATA, RECIPES, VARIANTS, complete
from parnet_deploy.errors import INTERRUPTED

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from parnet_deploy.training.loop import Progress, TrainingResult
    from parnet_deploy.training.settings import RunSettings


# torch's OpenMP threads spin while they wait for each other, so that on two cores one other busy process makes updates
# ten times slower. Spinning only briefly costs a fifth where the cores are free.
SPIN_COUNT = "1000"


def train(
    data: Annotated[
        str,
        typer.Option(
            help="'digits', or a folder: DIR/train/CLASS and DIR/val/CLASS, or DIR/CLASS to be split 80/20.",
            autocompletion=complete(DATA),
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write (.safetensors).")],
    model: Annotated[
        str, typer.Option(help="A registered variant; see: parnet-deploy models", autocompletion=complete(VARIANTS))
    ] = "parnet_nano",
    recipe: Annotated[
        str | None,
        typer.Option(
            help="digits or images; default: the one that fits the data.",
            show_default=False,
            autocompletion=complete(RECIPES),
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Epochs; default: the recipe's.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, max=MAX_BATCH, help="Images per update; default: the recipe's.")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_FACTOR, callback=finite, help="Peak learning rate; default: the recipe's."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same weights on the same CPU.")
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(min=0, max=MAX_WORKERS, help="Processes that prepare images; default: the recipe's.")
    ] = None,
    activation: Annotated[ActivationName | None, typer.Option(help="Activation; the variant's own is SiLU.")] = None,
    resolution: Annotated[int | None, typer.Option(min=1, max=MAX_SIDE, help="Input size in pixels, square.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Folder of states and metrics; default: the output's name with .run")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run after its last finished epoch.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a network and write the checkpoint of its best epoch.

    Example: parnet-deploy train --data digits --model parnet_nano -o digits.safetensors
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read once, when torch is first imported
    from parnet_deploy.datasets.sources import load_dataset
    from parnet_deploy.models.checkpoints import refuse_checkpoint
    from parnet_deploy.training import loop
    from parnet_deploy.training.recipe import recipe_for
    from parnet_deploy.training.settings import plan_training

    refuse_checkpoint(output, force=force)
    chosen = recipe_for(data, recipe).replace(epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, workers=workers)
    dataset = load_dataset(data)
    settings = plan_training(
        dataset, model, chosen, activation=activation.value if activation else None, resolution=resolution
    )
    folder = run_dir or output.with_suffix(".run")
    with progress_bar(f"training {model} on {dataset.name}", chosen.epochs) as bar:
        try:
            result = loop.train(
                settings,
                dataset,
                output,
                run_dir=folder,
                resume=resume,
                force=force,
                on_progress=lambda event: _show(event, chosen.epochs, bar),
            )
        except KeyboardInterrupt:
            bar.console.print(f"interrupted; to continue, run the same command with --resume ({folder})")
            raise typer.Exit(INTERRUPTED) from None
    emit(_as_dict(result, output), _as_text(result, settings, output), as_json=as_json)
    stderr().print(f"metrics: {folder / 'metrics.csv'}", soft_wrap=True)


def _show(event: Progress, epochs: int, bar: Bar) -> None:
    """Advance the bar after every update; print a line after every epoch."""
    from parnet_deploy.training.trainer import StepDone

    if isinstance(event, StepDone):
        done = (event.epoch - 1) * event.steps + event.step
        bar.update(bar.task_ids[0], total=epochs * event.steps, completed=done)
        return
    record = event.record
    bar.console.print(
        f"epoch {record.epoch:>{len(str(epochs))}}/{epochs}  loss {record.train_loss:.4f}  top-1 {record.top1:.2f}%  "
        f"top-5 {record.top5:.2f}%  {record.seconds:.1f} s{'  best' if event.best == record else ''}"
    )


def _as_dict(result: TrainingResult, output: Path) -> dict[str, Any]:
    return {
        "checkpoint": str(output),
        "card": result.card.model_dump(mode="json"),
        "best": result.best.model_dump(),
        "history": [record.model_dump() for record in result.history],
        "seconds": round(sum(record.seconds for record in result.history), 3),
    }


def _as_text(result: TrainingResult, settings: RunSettings, output: Path) -> str:
    seconds = sum(record.seconds for record in result.history)
    return (
        f"{output}: {settings.architecture} on {settings.data}, epoch {result.best.epoch} of {len(result.history)}\n"
        f"top-1 {result.best.top1:.2f}%, top-5 {result.best.top5:.2f}% of {settings.held_out_images} held-out images, "
        f"trained on {settings.train_images} in {seconds:.1f} s"
    )
