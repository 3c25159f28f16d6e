"""The loop: which weights are kept, what the card says, and what is refused before anything is trained."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from parnet_deploy.datasets.images import ImageDataset
from parnet_deploy.errors import ArtifactError, CheckpointError, OutputExistsError, ParNetError
from parnet_deploy.models.checkpoints import load_checkpoint
from parnet_deploy.training import trainer as trainer_module
from parnet_deploy.training.loop import EpochDone, Progress, train
from parnet_deploy.training.recipe import Recipe
from parnet_deploy.training.runs import resume_run
from parnet_deploy.training.settings import RunSettings
from parnet_deploy.training.trainer import create_trainer, seed_of_epoch


def with_recipe(settings: RunSettings, **changes: object) -> RunSettings:
    return settings.model_copy(update={"recipe": settings.recipe.replace(**changes)})


class ScriptedAccuracy:
    """Give accuracies as scripted, and keep a copy of the weights that each was given for."""

    def __init__(self, *top1: float) -> None:
        self.top1 = list(top1)
        self.weights: list[dict[str, torch.Tensor]] = []

    def __call__(self, model: torch.nn.Module, loader: object, *, gather: object) -> dict[str, float]:
        del loader, gather
        self.weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"top1": self.top1[len(self.weights) - 1], "top5": 90.0}


@pytest.mark.parametrize(("top1", "best"), [((10, 30, 30, 20), 2), ((10, 20, 30, 40), 4), ((40, 30, 20, 10), 1)])
def test_the_weights_of_the_best_epoch_are_written(
    tmp_path: Path,
    settings: RunSettings,
    data: ImageDataset,
    monkeypatch: pytest.MonkeyPatch,
    top1: tuple[float, ...],
    best: int,
) -> None:
    accuracy = ScriptedAccuracy(*top1)
    monkeypatch.setattr(trainer_module, "evaluate_model", accuracy)
    events: list[Progress] = []
    result = train(settings, data, tmp_path / "net.safetensors", run_dir=tmp_path / "run", on_progress=events.append)
    assert result.best.epoch == best
    assert result.card.metrics == {"top1": max(top1), "top5": 90.0}
    assert result.card.origin["epoch"] == best
    kept = load_checkpoint(tmp_path / "net.safetensors").state_dict()
    for name, tensor in accuracy.weights[best - 1].items():
        assert torch.equal(kept[name], tensor), name
    other = accuracy.weights[best % 4]
    assert any(not torch.equal(kept[name], tensor) for name, tensor in other.items())
    assert [event.best.epoch for event in events if isinstance(event, EpochDone)][-1] == best


def test_the_card_tells_how_it_was_made_and_names_no_path(
    tmp_path: Path, settings: RunSettings, data: ImageDataset
) -> None:
    output = tmp_path / "net.safetensors"
    card = train(with_recipe(settings, epochs=1), data, output, run_dir=tmp_path / "run").card
    assert card.label_names == tuple("0123456789")
    assert card.form == "training"
    assert card.network == settings.network
    assert card.preprocessing == settings.preprocessing
    assert set(card.metrics) == {"top1", "top5"}
    origin = card.origin
    assert (origin["data"], origin["train_images"], origin["held_out_images"]) == ("digits", 56, 30)
    assert (origin["seed"], origin["epoch"]) == (0, 1)
    assert Recipe.model_validate(origin["recipe"]) == with_recipe(settings, epochs=1).recipe
    assert set(origin["versions"]) == {"parnet-deploy", "torch", "timm", "accelerate"}
    assert str(tmp_path) not in output.with_suffix(".json").read_text()
    assert str(tmp_path) not in "".join(file.read_text() for file in (tmp_path / "run").glob("*.json*"))


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_the_moving_average_is_what_is_kept(settings: RunSettings, data: ImageDataset, ema_decay: float | None) -> None:
    recipe = settings.recipe.model_copy(update={"ema_decay": ema_decay})
    live = create_trainer(settings.model_copy(update={"recipe": recipe}), data)
    assert (live.kept is live.network) == (ema_decay is None)
    weight = live.kept.head.fc.weight
    expected = weight.detach().clone()

    def follow(_: object) -> None:
        # timm's warm-up: the decay after step n is min(ema_decay, 1 - n^-2/3), and 0 at the first.
        nonlocal expected, step
        step += 1
        decay = 0.0 if step == 1 or ema_decay is None else min(ema_decay, 1 - step ** (-2 / 3))
        expected = decay * expected + (1 - decay) * live.network.head.fc.weight.detach()

    step = 0
    live.run_epoch(1, follow)
    torch.testing.assert_close(weight.detach(), expected)
    assert step == 3


def test_the_learning_rate_rises_and_then_falls_along_a_cosine(settings: RunSettings, data: ImageDataset) -> None:
    # 4 epochs of 3 updates; warm-up over 0.3 of them: 3.6 updates.
    live = create_trainer(settings, data)
    rates: list[float] = [live.optimizer.param_groups[0]["lr"]]
    for epoch in range(1, 5):
        live.run_epoch(epoch, lambda _: rates.append(live.optimizer.param_groups[0]["lr"]))
    expected = [
        0.1 * update / 3.6 if update < 3.6 else 0.05 * (1 + math.cos(math.pi * update / 12)) for update in range(13)
    ]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_norms_and_biases_do_not_decay(settings: RunSettings, data: ImageDataset) -> None:
    groups = create_trainer(settings, data).optimizer.param_groups
    decays = {parameter.ndim: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decays == {1: 0.0, 2: 5e-4, 4: 5e-4}


def test_every_epoch_and_seed_has_its_own_randomness(settings: RunSettings) -> None:
    seeds = {seed_of_epoch(settings.recipe.replace(seed=seed), epoch) for seed in range(20) for epoch in range(20)}
    assert len(seeds) == 400


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, settings: RunSettings, data: ImageDataset) -> None:
    hot = with_recipe(settings, lr=1e6, weight_decay=1e6, warmup=0.0)
    with pytest.raises(ParNetError, match="the training loss is nan in epoch 1") as caught:
        train(hot, data, tmp_path / "net.safetensors", run_dir=tmp_path / "run")
    assert "--lr" in str(caught.value.remedy)
    assert resume_run(tmp_path / "run", hot).latest_state() is None


@pytest.mark.parametrize("existing", ["net.safetensors", "net.json"])
def test_an_existing_output_is_refused_before_training(
    tmp_path: Path, settings: RunSettings, data: ImageDataset, existing: str
) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(OutputExistsError):
        train(settings, data, tmp_path / "net.safetensors", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert (tmp_path / existing).read_text() == "precious"


def test_the_output_must_be_a_checkpoint(tmp_path: Path, settings: RunSettings, data: ImageDataset) -> None:
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        train(settings, data, tmp_path / "net.pth", run_dir=tmp_path / "run")


@pytest.mark.parametrize("name", ["optimizer.bin", "model.safetensors"])
def test_a_damaged_state_is_no_traceback(tmp_path: Path, settings: RunSettings, data: ImageDataset, name: str) -> None:
    def stop(event: Progress) -> None:
        if isinstance(event, EpochDone):
            raise KeyboardInterrupt

    output = tmp_path / "net.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(settings, data, output, run_dir=tmp_path / "run", on_progress=stop)
    path = tmp_path / "run/state/epoch-00001" / name
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="saved state cannot be read"):
        train(settings, data, output, run_dir=tmp_path / "run", resume=True)


def test_the_metrics_are_those_of_the_history(tmp_path: Path, settings: RunSettings, data: ImageDataset) -> None:
    result = train(with_recipe(settings, epochs=2), data, tmp_path / "net.safetensors", run_dir=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines == [record.model_dump() for record in result.history]
    assert [line["epoch"] for line in lines] == [1, 2]
