"""Train a network from its first epoch to its last, or from where a killed run stopped, and keep the best weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import timm
import torch
from safetensors import SafetensorError

import parnet_deploy
from parnet_deploy.artifacts.folders import card_path_of, open_card
from parnet_deploy.artifacts.schemas import Card
from parnet_deploy.datasets.images import ImageDataset
from parnet_deploy.errors import ArtifactError
from parnet_deploy.models.checkpoints import load_network, refuse_checkpoint, save_checkpoint
from parnet_deploy.training.runs import EpochRecord, RunFolder, SavedState, best_of, create_run, resume_run
from parnet_deploy.training.settings import RunSettings
from parnet_deploy.training.trainer import StepDone, Trainer, create_trainer


@dataclass(frozen=True)
class EpochDone:
    """An epoch was trained, measured and saved."""

    record: EpochRecord
    best: EpochRecord


Progress = StepDone | EpochDone


@dataclass(frozen=True)
class TrainingResult:
    """The card of the checkpoint that was written, every epoch's record, and which epoch was best."""

    card: Card
    history: tuple[EpochRecord, ...]
    best: EpochRecord


def train(
    settings: RunSettings,
    data: ImageDataset,
    output: Path,
    *,
    run_dir: Path,
    resume: bool = False,
    force: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> TrainingResult:
    """Train until the recipe's last epoch and write the best checkpoint to `output`, in one process.

    Best is the highest held-out top-1 accuracy, of equal ones the earliest. The run folder keeps the state of the last
    finished epoch; with `resume` the run continues from there, as if it had never stopped.

    Raises:
        OutputExistsError: `output` or the run folder exists, before anything is trained.
        ArtifactError: nothing to resume, a damaged state, or a run that was started with other settings.
        DataError: an image cannot be decoded.
        ParNetError: the loss is no longer finite.
    """
    refuse_checkpoint(output, force=force)
    run = resume_run(run_dir, settings) if resume else create_run(run_dir, settings, force=force)
    state = run.latest_state()
    if state is None or len(state.history) < settings.recipe.epochs:
        trainer = create_trainer(settings, data)
        if state is not None:
            trainer.restore(state.folder)
        first = 1 + (0 if state is None else len(state.history))
        for epoch in range(first, settings.recipe.epochs + 1):
            record = trainer.run_epoch(epoch, on_progress)
            state = _save_state(trainer, run, settings, record, state)
            on_progress(EpochDone(record, best_of(state.history)))
    assert state is not None  # a recipe has at least one epoch
    run.write_metrics(state.history)
    return TrainingResult(_write_output(state, output, force=force), state.history, best_of(state.history))


def _save_state(
    trainer: Trainer, run: RunFolder, settings: RunSettings, record: EpochRecord, previous: SavedState | None
) -> SavedState:
    """Save the state after `record`'s epoch, with the best checkpoint: this epoch's, or the previous state's."""
    history = (record,) if previous is None else (*previous.history, record)
    with run.replacing_state(history) as state:
        try:
            trainer.accelerator.save_state(str(state.folder))
        except (SafetensorError, RuntimeError) as error:  # torch's and safetensors' names for errors of the file system
            remedy = "check free space, and that no other command trains in this folder"
            raise ArtifactError(f"the state cannot be written ({error})", where=state.folder, remedy=remedy) from error
        if previous is not None and best_of(history) != record:
            for path in (previous.best_checkpoint, card_path_of(previous.best_checkpoint)):
                shutil.copyfile(path, state.folder / path.name)
        else:
            save_checkpoint(
                state.best_checkpoint,
                trainer.kept,
                architecture=settings.architecture,
                preprocessing=settings.preprocessing,
                label_names=settings.label_names,
                metrics={"top1": record.top1, "top5": record.top5},
                origin=_origin(settings, record),
            )
    return run.state_of(history)


def _origin(settings: RunSettings, record: EpochRecord) -> dict[str, Any]:
    return {
        "made_by": "parnet-deploy train",
        "data": settings.data,
        "train_images": settings.train_images,
        "held_out_images": settings.held_out_images,
        "recipe": settings.recipe.model_dump(mode="json"),
        "seed": settings.recipe.seed,
        "epoch": record.epoch,
        "selection": "highest held-out top-1 of all epochs, the earliest of equal ones",
        "versions": {
            "parnet-deploy": parnet_deploy.__version__,
            "torch": str(torch.__version__),
            "timm": timm.__version__,
            "accelerate": accelerate.__version__,
        },
    }


def _write_output(state: SavedState, output: Path, *, force: bool) -> Card:
    """Write the run's best checkpoint to `output`; return its card."""
    best = open_card(state.best_checkpoint)
    card = best.manifest
    return save_checkpoint(
        output,
        load_network(best),
        architecture=card.architecture,
        preprocessing=card.preprocessing,
        label_names=card.label_names,
        metrics=card.metrics,
        origin=card.origin,
        force=force,
    )
