"""The run folder: what is trained, the metrics so far, and the state that training resumes from.

    RUN/run.json               the settings; a resumed run must have the same
    RUN/metrics.jsonl, .csv    one record per finished epoch
    RUN/state/epoch-00003/     accelerate's state, the best checkpoint so far and the metrics, after epoch 3

A state folder is renamed into place when it is whole and only then is the one before it removed, so that a kill at any
moment leaves one whole state of an epoch's end.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from parnet_deploy.artifacts.files import (
    read_manifest,
    replacing_file,
    replacing_folder,
    sealed_bytes,
    write_manifest,
)
from parnet_deploy.artifacts.schemas import SCHEMA_VERSION, Frozen, Positive
from parnet_deploy.errors import ArtifactError, OutputExistsError
from parnet_deploy.training.settings import RunSettings

_SETTINGS = "run.json"
_PROGRESS = "progress.json"
_BEST = "best.safetensors"


class EpochRecord(Frozen):
    """What one epoch gave: mean training loss, held-out accuracy in percent, and the seconds it took."""

    epoch: Positive
    lr: float
    train_loss: float
    top1: float
    top5: float
    seconds: float


class RunProgress(Frozen):
    """`progress.json` of a state folder: the record of every epoch so far, from epoch 1 on."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["training-state"] = "training-state"
    history: Annotated[tuple[EpochRecord, ...], Field(min_length=1)]


def best_of(history: tuple[EpochRecord, ...]) -> EpochRecord:
    """Return the record of highest top-1 accuracy; of equal ones the earliest."""
    return max(history, key=lambda record: (record.top1, -record.epoch))


@dataclass(frozen=True)
class SavedState:
    """The state at the end of the last epoch of `history`, with the best checkpoint so far."""

    folder: Path
    history: tuple[EpochRecord, ...]

    @property
    def best_checkpoint(self) -> Path:
        """The weights of the best epoch so far; its card is beside it."""
        return self.folder / _BEST


class RunFolder:
    """A run folder on disk; make one with `create_run` or `resume_run`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def latest_state(self) -> SavedState | None:
        """Return the newest state, or None before the first epoch's end."""
        states = sorted((self.folder / "state").glob("epoch-*"))
        if not states:
            return None
        path = states[-1] / _PROGRESS
        progress, _ = read_manifest(path, RunProgress, kind="training-state", schema_version=SCHEMA_VERSION)
        return SavedState(states[-1], progress.history)

    def state_of(self, history: tuple[EpochRecord, ...]) -> SavedState:
        """Return the state that follows the last epoch of `history`."""
        return SavedState(self.folder / "state" / f"epoch-{history[-1].epoch:05d}", history)

    @contextmanager
    def replacing_state(self, history: tuple[EpochRecord, ...]) -> Iterator[SavedState]:
        """Yield a temporary state that becomes the newest, `state_of(history)`, when the block ends well."""
        target = self.state_of(history).folder
        with replacing_folder(target, force=False) as temporary:
            yield SavedState(temporary, history)
            write_manifest(temporary / _PROGRESS, RunProgress(history=history))
        # Whatever else is there is an older state, or what a kill left half-written.
        for other in target.parent.iterdir():
            if other != target:
                shutil.rmtree(other)
        self.write_metrics(history)

    def write_metrics(self, history: tuple[EpochRecord, ...]) -> None:
        """Write the history as JSON lines and as CSV."""
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=list(EpochRecord.model_fields), lineterminator="\n")
        writer.writeheader()
        writer.writerows(record.model_dump() for record in history)
        lines = "".join(record.model_dump_json() + "\n" for record in history)
        for name, text in (("metrics.jsonl", lines), ("metrics.csv", table.getvalue())):
            with replacing_file(self.folder / name, force=True) as temporary:
                temporary.write_text(text)


def create_run(folder: Path, settings: RunSettings, *, force: bool) -> RunFolder:
    """Make a new run folder; with `force` an earlier run in it is deleted.

    Raises:
        OutputExistsError: the folder holds a run and `force` is not set, or holds anything else.
    """
    if folder.exists():
        if not (folder / _SETTINGS).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
            raise OutputExistsError("exists and is no training run", where=folder, remedy="choose another --run-dir")
        if not force and (folder / _SETTINGS).is_file():
            raise OutputExistsError(
                "holds a training run already",
                where=folder,
                remedy="pass --resume to continue it, --force to start again, or choose another --run-dir",
            )
        shutil.rmtree(folder)
    with replacing_file(folder / _SETTINGS, force=False) as temporary:
        temporary.write_bytes(sealed_bytes(settings))
    return RunFolder(folder)


def resume_run(folder: Path, settings: RunSettings) -> RunFolder:
    """Open a run folder to continue it.

    Raises:
        ArtifactError: no run, a damaged one, or one with other settings; the first difference is named.
    """
    if not (folder / _SETTINGS).is_file():
        raise ArtifactError("no training run to resume here", where=folder, remedy="start one without --resume")
    found, _ = read_manifest(folder / _SETTINGS, RunSettings, kind="training-run", schema_version=SCHEMA_VERSION)
    difference = _first_difference(found, settings)
    if difference is not None:
        name, before, now = difference
        raise ArtifactError(
            f"the run was started with {name} {before!r}, now it is {now!r}",
            where=folder,
            remedy="resume with the same options, or start another run",
        )
    return RunFolder(folder)


def _first_difference(found: Frozen, wanted: Frozen) -> tuple[str, object, object] | None:
    """Return the first field that differs, as `outer.inner`, and both its values."""
    for name in type(found).model_fields:
        before, now = getattr(found, name), getattr(wanted, name)
        if before != now and isinstance(before, Frozen):
            inner = _first_difference(before, now)
            if inner is not None:
                return f"{name}.{inner[0]}", *inner[1:]
        elif before != now:
            return name, before, now
    return None
