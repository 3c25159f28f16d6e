"""Recipes: every number that decides how a network is trained, apart from the data and the network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from parnet_deploy.artifacts.limits import MAX_BATCH, MAX_EPOCHS, MAX_FACTOR, MAX_SEED, MAX_WORKERS
from parnet_deploy.artifacts.schemas import Frozen
from parnet_deploy.errors import ParNetError

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Recipe(Frozen):
    """A training recipe; timm's optimizers and schedules, stepped at every update.

    `warmup` is the part of all updates over which the learning rate rises linearly to `lr`; then it follows `schedule`,
    of which "cosine" falls to zero. `augmentation`: "shift" prepares images as for evaluation and moves them by up to
    `shift` of their side, black pixels moving in (an eighth is the standard scheme of CIFAR, section 4); "crop" takes a
    random crop of at least `min_scale` of the area. `ema_decay` keeps a moving average of the weights, which is then
    what is measured and saved.
    """

    name: str
    epochs: Annotated[int, Field(gt=0, le=MAX_EPOCHS)]
    batch_size: Annotated[int, Field(gt=0, le=MAX_BATCH)]
    optimizer: Literal["sgd", "adamw"]
    lr: Annotated[float, Field(gt=0, le=MAX_FACTOR)]
    weight_decay: Annotated[float, Field(ge=0, le=MAX_FACTOR)]
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: Fraction = 0.0
    label_smoothing: Fraction = 0.0
    augmentation: Literal["shift", "crop"]
    shift: Fraction = 0.125
    min_scale: Annotated[float, Field(gt=0, le=1)] = 0.35
    hflip: Annotated[float, Field(ge=0, le=1)] = 0.0
    color_jitter: Fraction = 0.0
    ema_decay: Fraction | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 0

    def replace(self, **changes: Any) -> Recipe:
        """Return the recipe with some fields changed; those given as None keep their value.

        Raises:
            ParNetError: a value out of its range, or no such field.
        """
        wanted = {field: value for field, value in changes.items() if value is not None}
        try:
            return Recipe.model_validate({**self.model_dump(), **wanted})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ParNetError(
                f"recipe {self.name!r}, field {field!r}: {first['msg']}",
                remedy="leave it out for the recipe's own, or see: parnet-deploy train --help",
            ) from error


PRESETS: dict[str, Recipe] = {
    # 8x8 digits enlarged to 32 px: about a minute on two cores. No flips: a mirrored digit is another shape.
    "digits": Recipe(
        name="digits",
        epochs=10,
        batch_size=64,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        warmup=0.1,
        label_smoothing=0.1,
        augmentation="shift",
        shift=0.125,
        ema_decay=0.98,
    ),
    # A folder of photographs, trained from scratch.
    "images": Recipe(
        name="images",
        epochs=90,
        batch_size=64,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-5,
        warmup=0.05,
        label_smoothing=0.1,
        augmentation="crop",
        min_scale=0.35,
        hflip=0.5,
        color_jitter=0.4,
        ema_decay=0.999,
        workers=2,
    ),
}


def recipe_for(data: str, name: str | None = None) -> Recipe:
    """Return the preset of that name, or the one made for the data (`digits`, or a folder).

    Raises:
        ParNetError: no preset of that name.
    """
    name = name or ("digits" if data == "digits" else "images")
    if name not in PRESETS:
        raise ParNetError(f"no recipe {name!r}", remedy=f"one of: {', '.join(PRESETS)}")
    return PRESETS[name]
