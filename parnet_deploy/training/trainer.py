"""Train and measure a network for one epoch at a time, reproducibly.

All randomness of an epoch (order of the images, augmentation, dropout) comes from generators that are seeded anew from
the recipe's seed and the epoch's number. So an epoch is a function of its number and of the weights, their moving
average and the optimizer's state before it: bit for bit on the CPU.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from accelerate.utils import set_seed
from safetensors import SafetensorError
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn

from parnet_deploy.datasets.images import ImageDataset
from parnet_deploy.errors import ArtifactError, ParNetError
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.training.datasets import batches_of, create_loaders
from parnet_deploy.training.evaluation import evaluate_model
from parnet_deploy.training.recipe import Recipe
from parnet_deploy.training.runs import EpochRecord
from parnet_deploy.training.settings import RunSettings


@dataclass(frozen=True)
class StepDone:
    """One update of the weights was made; `step` counts from 1 within the epoch."""

    epoch: int
    step: int
    steps: int


@dataclass(frozen=True)
class Trainer:
    """What exists while a run trains.

    `model` is `network` as accelerate wraps it; `kept` is what is measured and saved: the moving average, or `network`.
    """

    recipe: Recipe
    accelerator: Any
    network: ParNet
    model: nn.Module
    kept: ParNet
    ema: ModelEmaV3 | None
    optimizer: Any
    scheduler: Any
    criterion: nn.Module
    train_loader: Any
    test_loader: Any

    def run_epoch(self, epoch: int, on_step: Callable[[StepDone], None]) -> EpochRecord:
        """Train epoch `epoch`, counted from 1, and measure the held-out accuracy.

        Raises:
            ParNetError: the loss is no longer finite.
            DataError: an image cannot be decoded.
        """
        start = time.perf_counter()
        loss = self._train_epoch(epoch, on_step)
        if not math.isfinite(loss):
            raise ParNetError(f"the training loss is {loss} in epoch {epoch}", remedy="start again with a smaller --lr")
        accuracy = evaluate_model(self.kept, self.test_loader, gather=self.accelerator.gather_for_metrics)
        return EpochRecord(
            epoch=epoch,
            lr=float(self.optimizer.param_groups[0]["lr"]),
            train_loss=round(loss, 6),
            top1=round(accuracy["top1"], 4),
            top5=round(accuracy["top5"], 4),
            seconds=round(time.perf_counter() - start, 3),
        )

    def _train_epoch(self, epoch: int, on_step: Callable[[StepDone], None]) -> float:
        """Make every update of an epoch; return the mean loss."""
        set_seed(seed_of_epoch(self.recipe, epoch))
        self.train_loader.set_epoch(epoch)
        self.model.train()
        steps = len(self.train_loader)
        done = (epoch - 1) * steps
        self.scheduler.step_update(done)
        total = torch.zeros((), device=self.accelerator.device)
        for step, (images, labels) in enumerate(batches_of(self.train_loader), start=1):
            loss = self.criterion(self.model(images), labels)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.scheduler.step_update(done + step)
            if self.ema is not None:
                self.ema.update(self.network, step=done + step)
            total += loss.detach()
            on_step(StepDone(epoch, step, steps))
        return float(total) / steps

    def restore(self, folder: Path) -> None:
        """Load what `accelerator.save_state` wrote; raise `ArtifactError` if it is damaged."""
        try:
            self.accelerator.load_state(str(folder))
        except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, pickle.UnpicklingError) as error:
            raise ArtifactError(
                f"the saved state cannot be read ({type(error).__name__})",
                where=folder,
                remedy="start the run again with --force",
            ) from error


def create_trainer(settings: RunSettings, data: ImageDataset) -> Trainer:
    """Build the network with fresh weights, and everything that trains it, on the device that accelerate chooses."""
    recipe = settings.recipe
    accelerator = accelerate.Accelerator(
        mixed_precision=recipe.mixed_precision,
        dataloader_config=accelerate.DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.seed),
    )
    set_seed(seed_of_epoch(recipe, 0))
    network = ParNet(settings.network).to(accelerator.device)
    ema = None if recipe.ema_decay is None else ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=True)
    optimizer = create_optimizer_v2(
        network, opt=recipe.optimizer, lr=recipe.lr, weight_decay=recipe.weight_decay, filter_bias_and_bn=True
    )
    model, wrapped, train_loader, test_loader = accelerator.prepare(
        network, optimizer, *create_loaders(data, settings.preprocessing, recipe)
    )
    if ema is not None:
        # As a second model it is part of accelerate's state in safetensors; a registered object would be pickled.
        accelerator.prepare_model(ema.module, evaluation_mode=True)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=recipe.epochs,
        warmup_epochs=recipe.warmup * recipe.epochs,
        warmup_lr=0.0,
        step_on_epochs=False,
        updates_per_epoch=len(train_loader),
    )
    return Trainer(
        recipe=recipe,
        accelerator=accelerator,
        network=network,
        model=model,
        kept=network if ema is None else ema.module,
        ema=ema,
        optimizer=wrapped,
        scheduler=scheduler,
        criterion=LabelSmoothingCrossEntropy(recipe.label_smoothing),
        train_loader=train_loader,
        test_loader=test_loader,
    )


def seed_of_epoch(recipe: Recipe, epoch: int) -> int:
    """Return a 32-bit seed; epoch 0 is the initial weights. Neighbouring seeds and epochs give unrelated ones."""
    return int(np.random.SeedSequence([recipe.seed, epoch]).generate_state(1)[0])
