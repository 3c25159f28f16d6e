"""A small training run for tests; as a script, one that dies in the middle of an epoch as a killed process does."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from parnet_deploy.artifacts.schemas import NetworkConfig, Preprocessing
from parnet_deploy.datasets.digits import load_digits
from parnet_deploy.datasets.images import ImageDataset, ImageSplit
from parnet_deploy.training.loop import Progress, train
from parnet_deploy.training.recipe import PRESETS, Recipe
from parnet_deploy.training.settings import RunSettings
from parnet_deploy.training.trainer import StepDone

NETWORK = NetworkConfig(
    stem=(8, 8), planes=(8, 8), num_blocks=(1, 1), last_planes=16, num_classes=10, drop_rate=0.2, activation="silu"
)
RECIPE = PRESETS["digits"].replace(name="small", epochs=4, batch_size=16, warmup=0.3)


def small_digits(train_images: int = 56, held_out_images: int = 30) -> ImageDataset:
    """Return the first of the digits."""
    digits = load_digits()
    parts = (
        ImageSplit(split.sources[:count], split.labels[:count])
        for split, count in ((digits.train, train_images), (digits.test, held_out_images))
    )
    return ImageDataset("digits", digits.label_names, *parts)


def small_settings(data: ImageDataset, recipe: Recipe = RECIPE) -> RunSettings:
    """Return the settings of a run of seconds: 2 streams, 16 px."""
    return RunSettings(
        architecture="parnet",
        network=NETWORK,
        preprocessing=Preprocessing(input_size=(3, 16, 16), crop_pct=1.0),
        recipe=recipe,
        data=data.name,
        label_names=data.label_names,
        train_images=len(data.train),
        held_out_images=len(data.test),
    )


def _die_in_epoch_3(event: Progress) -> None:
    if isinstance(event, StepDone) and (event.epoch, event.step) == (3, 2):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    settings_path, run_dir, output, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    settings = RunSettings.model_validate_json(Path(settings_path).read_text())
    train(settings, small_digits(), Path(output), run_dir=Path(run_dir), on_progress=_die_in_epoch_3)
