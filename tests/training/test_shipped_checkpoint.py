"""The checkpoint that ships in `models/` is as accurate as its card says, on images that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from parnet_deploy.artifacts.folders import open_card
from parnet_deploy.datasets.digits import load_digits
from parnet_deploy.models.checkpoints import load_network
from parnet_deploy.training.datasets import TransformedImages, evaluation_transform
from parnet_deploy.training.evaluation import evaluate_model
from parnet_deploy.training.recipe import PRESETS, Recipe

PATH = Path(__file__).parents[2] / "models" / "parnet_nano_digits.safetensors"


def test_the_shipped_checkpoint_is_as_accurate_as_its_card_says() -> None:
    opened = open_card(PATH)
    card = opened.manifest
    test = TransformedImages(load_digits().test, evaluation_transform(card.preprocessing))
    accuracy = evaluate_model(load_network(opened), DataLoader(test, batch_size=64))
    assert accuracy == pytest.approx(card.metrics, abs=1e-4)
    assert accuracy["top1"] == pytest.approx(100 * 357 / 359, abs=1e-3)


def test_the_shipped_checkpoint_is_what_the_preset_makes() -> None:
    card = open_card(PATH).manifest
    assert Recipe.model_validate(card.origin["recipe"]) == PRESETS["digits"]
    assert (card.architecture, card.origin["data"], card.origin["train_images"]) == ("parnet_nano", "digits", 1438)
    assert card.label_names == load_digits().label_names
    assert PATH.stat().st_size < 2_000_000
