"""Recipes: the presets and what is said about wrong numbers."""

from __future__ import annotations

import pytest

from parnet_deploy.errors import NetworkError, ParNetError
from parnet_deploy.models.variants import VARIANTS
from parnet_deploy.training.recipe import PRESETS, Recipe, recipe_for
from parnet_deploy.training.settings import plan_training


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_are_what_their_name_says(name: str) -> None:
    recipe = PRESETS[name]
    assert recipe.name == name
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.warmup * recipe.epochs >= 1  # the first epoch is never at the peak learning rate


def test_digits_are_never_mirrored() -> None:
    assert PRESETS["digits"].hflip == 0
    assert PRESETS["digits"].augmentation == "shift"


def test_the_data_choose_the_preset() -> None:
    assert recipe_for("digits").name == "digits"
    assert recipe_for("some/folder").name == "images"
    assert recipe_for("some/folder", "digits").name == "digits"
    with pytest.raises(ParNetError, match="no recipe 'cifar'") as caught:
        recipe_for("digits", "cifar")
    assert caught.value.remedy == "one of: digits, images"


def test_replace_keeps_what_is_not_given() -> None:
    recipe = PRESETS["digits"].replace(epochs=3, lr=None)
    assert recipe == PRESETS["digits"].model_copy(update={"epochs": 3})


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"epochs": 0},
        {"epochs": 10_001},
        {"hflip": 1.5},
        {"ema_decay": 1.0},
        {"optimizer": "x"},
        {"colour": 1},
    ],
)
def test_replace_names_the_field_that_is_wrong(change: dict[str, object]) -> None:
    with pytest.raises(ParNetError, match=f"recipe 'digits', field '{next(iter(change))}'") as caught:
        PRESETS["digits"].replace(**change)
    assert "parnet-deploy train --help" in str(caught.value.remedy)


def test_the_plan_fits_the_network_to_the_data(data: object) -> None:
    plan = plan_training(data, "parnet_pico", PRESETS["digits"], activation="relu", resolution=64)  # type: ignore[arg-type]
    assert plan.network == VARIANTS["parnet_pico"].network.model_copy(update={"num_classes": 10, "activation": "relu"})
    assert plan.preprocessing.input_size == (3, 64, 64)
    assert plan.preprocessing.mean == VARIANTS["parnet_pico"].preprocessing.mean
    assert (plan.data, plan.train_images, plan.held_out_images) == ("digits", 56, 30)


def test_the_variant_gives_the_default_resolution_and_activation(data: object) -> None:
    plan = plan_training(data, "parnet_nano", PRESETS["digits"])  # type: ignore[arg-type]
    assert (plan.network.activation, plan.preprocessing.input_size) == ("silu", (3, 32, 32))


@pytest.mark.parametrize(("model", "resolution", "what"), [("parnet_nano", 30, "30x30"), ("parnet", None, "no model")])
def test_networks_that_cannot_be_are_refused(data: object, model: str, resolution: int | None, what: str) -> None:
    with pytest.raises(NetworkError, match=what) as caught:
        plan_training(data, model, PRESETS["digits"], resolution=resolution)  # type: ignore[arg-type]
    assert caught.value.remedy
