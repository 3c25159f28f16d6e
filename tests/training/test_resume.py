"""A killed run, resumed, equals one that was never killed: bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import safetensors.torch
import torch

from parnet_deploy.artifacts.schemas import Card
from parnet_deploy.datasets.images import ImageDataset
from parnet_deploy.training.loop import Progress, TrainingResult, train
from parnet_deploy.training.runs import EpochRecord, resume_run
from parnet_deploy.training.settings import RunSettings
from parnet_deploy.training.trainer import StepDone

STATE_FILES = ("model.safetensors", "model_1.safetensors", "best.safetensors")  # model_1 is the moving average


def without_seconds(history: tuple[EpochRecord, ...]) -> list[EpochRecord]:
    return [record.model_copy(update={"seconds": 0.0}) for record in history]


def assert_same_state(ours: Path, theirs: Path) -> None:
    """Assert that weights, moving average, best weights and optimizer state are the same numbers."""
    for name in STATE_FILES:
        found, expected = (safetensors.torch.load_file(folder / name) for folder in (ours, theirs))
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(found[key], tensor), (name, key)
    found, expected = (torch.load(folder / "optimizer.bin", weights_only=True) for folder in (ours, theirs))
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    assert found["state"]
    for key, state in expected["state"].items():
        assert torch.equal(found["state"][key]["momentum_buffer"], state["momentum_buffer"])


def test_a_killed_run_resumes_bit_for_bit(
    tmp_path: Path, settings: RunSettings, data: ImageDataset, small_runs: ModuleType
) -> None:
    whole = train(settings, data, tmp_path / "whole.safetensors", run_dir=tmp_path / "whole")

    path = tmp_path / "settings.json"
    path.write_text(settings.model_dump_json())
    arguments = [path, tmp_path / "cut", tmp_path / "cut.safetensors", torch.get_num_threads()]
    done = subprocess.run([sys.executable, str(small_runs.__file__), *map(str, arguments)])
    assert done.returncode == -signal.SIGKILL
    state = resume_run(tmp_path / "cut", settings).latest_state()
    assert state is not None
    assert len(state.history) == 2
    assert not (tmp_path / "cut.safetensors").exists()

    steps: list[Progress] = []
    resumed = train(
        settings,
        data,
        tmp_path / "cut.safetensors",
        run_dir=tmp_path / "cut",
        resume=True,
        on_progress=steps.append,
    )
    assert [(event.epoch, event.step) for event in steps if isinstance(event, StepDone)] == [
        (epoch, step) for epoch in (3, 4) for step in (1, 2, 3)
    ]
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    assert_same_state(tmp_path / "cut/state/epoch-00004", tmp_path / "whole/state/epoch-00004")
    assert (tmp_path / "cut.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert weights_apart(resumed) == weights_apart(whole)
    assert without_seconds(tuple(map(EpochRecord.model_validate_json, lines(tmp_path / "cut")))) == without_seconds(
        whole.history
    )


def weights_apart(result: TrainingResult) -> Card:
    """Return the card without the file's name."""
    record = result.card.weights.model_copy(update={"name": "x"})
    return result.card.model_copy(update={"weights": record})


def lines(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def test_a_finished_run_resumes_to_its_checkpoint(tmp_path: Path, settings: RunSettings, data: ImageDataset) -> None:
    short = settings.model_copy(update={"recipe": settings.recipe.replace(epochs=1)})
    output = tmp_path / "net.safetensors"
    train(short, data, output, run_dir=tmp_path / "run")
    weights = output.read_bytes()
    output.unlink()
    (tmp_path / "net.json").unlink()
    steps: list[Progress] = []
    train(short, data, output, run_dir=tmp_path / "run", resume=True, on_progress=steps.append)
    assert output.read_bytes() == weights
    assert steps == []


def test_another_seed_gives_other_weights(tmp_path: Path, settings: RunSettings, data: ImageDataset) -> None:
    results = []
    for seed in (0, 1):
        changed = settings.model_copy(update={"recipe": settings.recipe.replace(epochs=1, seed=seed)})
        results.append(train(changed, data, tmp_path / f"{seed}.safetensors", run_dir=tmp_path / str(seed)))
    assert results[0].card.weights.sha256 != results[1].card.weights.sha256
    assert results[0].best.train_loss != results[1].best.train_loss
