"""The run folder: states are whole or absent, and only the same settings resume."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from parnet_deploy.errors import ArtifactError, OutputExistsError
from parnet_deploy.training.runs import EpochRecord, RunFolder, best_of, create_run, resume_run
from parnet_deploy.training.settings import RunSettings


def record(epoch: int, top1: float = 50.0) -> EpochRecord:
    return EpochRecord(epoch=epoch, lr=0.1, train_loss=1.5, top1=top1, top5=90.0, seconds=2.0)


def history(*top1: float) -> tuple[EpochRecord, ...]:
    return tuple(record(epoch, value) for epoch, value in enumerate(top1, start=1))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(run: RunFolder, *top1: float) -> None:
    with run.replacing_state(history(*top1)) as state:
        (state.folder / "weights").write_text(str(len(top1)))


@pytest.mark.parametrize(
    ("top1", "epoch"), [((50.0,), 1), ((50.0, 70.0, 60.0), 2), ((70.0, 60.0, 70.0), 1), ((0.0, 0.0, 1.0), 3)]
)
def test_best_is_the_earliest_of_the_highest(top1: tuple[float, ...], epoch: int) -> None:
    assert best_of(history(*top1)).epoch == epoch


def test_a_state_replaces_the_one_before_it(tmp_path: Path, settings: RunSettings) -> None:
    run = create_run(tmp_path / "run", settings, force=False)
    assert run.latest_state() is None
    for count in range(1, 4):
        save(run, *[50.0] * count)
    state = resume_run(tmp_path / "run", settings).latest_state()
    assert state is not None
    assert state.history == history(50.0, 50.0, 50.0)
    assert (state.folder / "weights").read_text() == "3"
    assert names(tmp_path / "run" / "state") == ["epoch-00003"]


def test_a_state_that_was_not_finished_changes_nothing(tmp_path: Path, settings: RunSettings) -> None:
    run = create_run(tmp_path / "run", settings, force=False)
    save(run, 50.0)

    def interrupt(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), run.replacing_state(history(50.0, 60.0)) as state:
        interrupt(state.folder)
    assert names(tmp_path / "run" / "state") == ["epoch-00001"]
    latest = run.latest_state()
    assert latest is not None
    assert latest.history == history(50.0)


def test_what_a_kill_left_behind_is_ignored_and_then_removed(tmp_path: Path, settings: RunSettings) -> None:
    run = create_run(tmp_path / "run", settings, force=False)
    save(run, 50.0)
    (tmp_path / "run" / "state" / ".epoch-00002.partial-x").mkdir()
    latest = run.latest_state()
    assert latest is not None
    assert latest.folder.name == "epoch-00001"
    save(run, 50.0, 60.0)
    assert names(tmp_path / "run" / "state") == ["epoch-00002"]


def test_the_newest_of_two_states_counts(tmp_path: Path, settings: RunSettings) -> None:
    # A kill between the renaming of the new state and the removal of the old one.
    run = create_run(tmp_path / "run", settings, force=False)
    for count in (9, 10):
        save(run, *[50.0] * count)
        (tmp_path / "run" / "state").rename(tmp_path / f"kept{count}")
    (tmp_path / "kept10").rename(tmp_path / "run" / "state")
    (tmp_path / "kept9" / "epoch-00009").rename(tmp_path / "run" / "state" / "epoch-00009")
    latest = run.latest_state()
    assert latest is not None
    assert len(latest.history) == 10


def test_metrics_are_written_as_lines_and_as_a_table(tmp_path: Path, settings: RunSettings) -> None:
    run = create_run(tmp_path / "run", settings, force=False)
    save(run, 50.0)
    save(run, 50.0, 62.5)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [entry.model_dump() for entry in history(50.0, 62.5)]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["top1"]) for row in rows] == [("1", "50.0"), ("2", "62.5")]


def test_a_run_is_not_started_over_by_accident(tmp_path: Path, settings: RunSettings) -> None:
    run = create_run(tmp_path / "run", settings, force=False)
    save(run, 50.0)
    with pytest.raises(OutputExistsError, match="holds a training run already") as caught:
        create_run(tmp_path / "run", settings, force=False)
    assert "--resume" in str(caught.value.remedy)
    assert create_run(tmp_path / "run", settings, force=True).latest_state() is None


def test_a_folder_of_something_else_is_never_deleted(tmp_path: Path, settings: RunSettings) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for force in (False, True):
        with pytest.raises(OutputExistsError, match="is no training run"):
            create_run(tmp_path, settings, force=force)
        with pytest.raises(OutputExistsError, match="is no training run"):
            create_run(tmp_path / "letter.txt", settings, force=force)
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_an_empty_folder_may_become_a_run(tmp_path: Path, settings: RunSettings) -> None:
    create_run(tmp_path, settings, force=False)
    assert names(tmp_path) == ["run.json"]


def test_only_the_same_settings_resume(tmp_path: Path, settings: RunSettings) -> None:
    create_run(tmp_path / "run", settings, force=False)
    resume_run(tmp_path / "run", settings)
    longer = settings.model_copy(update={"recipe": settings.recipe.replace(epochs=9)})
    with pytest.raises(ArtifactError, match=r"started with recipe\.epochs 4, now it is 9"):
        resume_run(tmp_path / "run", longer)
    with pytest.raises(ArtifactError, match="started with data 'digits', now it is 'letters'"):
        resume_run(tmp_path / "run", settings.model_copy(update={"data": "letters"}))


def test_there_must_be_a_run_to_resume(tmp_path: Path, settings: RunSettings) -> None:
    with pytest.raises(ArtifactError, match="no training run to resume"):
        resume_run(tmp_path, settings)


def test_a_damaged_state_is_refused(tmp_path: Path, settings: RunSettings) -> None:
    run = create_run(tmp_path / "run", settings, force=False)
    save(run, 50.0)
    (tmp_path / "run" / "state" / "epoch-00001" / "progress.json").write_text("{}")
    with pytest.raises(ArtifactError, match="of kind None"):
        run.latest_state()
