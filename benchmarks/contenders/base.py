"""What a contender's module offers, and the files that contenders of one case share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases import Case, Contender

Images = NDArray[np.float32]

SEED = 0


class CannotRunError(Exception):
    """A contender that this machine cannot run; the message is the reason."""


@dataclass(frozen=True)
class Job:
    """One contender of one case; `folder` holds what the case's contenders share, `tools` what was fetched for it."""

    case: Case
    contender: Contender
    folder: Path
    tools: Path

    def option(self, name: str, default: str = "") -> str:
        """Return an option of the contender."""
        return self.contender.options.get(name, default)

    @property
    def form(self) -> str:
        """The network's form: `unfused`, or `fused`; other networks than ParNet have one form."""
        return self.option("form", "unfused")

    @property
    def onnx_path(self) -> Path:
        """The plain export of the network in this form."""
        return self.folder / f"plain-{self.form}.onnx"

    def images(self) -> Images:
        """Return the images that all contenders of the case answer."""
        shape = (self.case.batch, 3, self.case.pixels, self.case.pixels)
        return np.random.default_rng(SEED).standard_normal(shape, np.float32)


@dataclass(frozen=True)
class Opened:
    """A contender that is ready.

    `infer` answers images with logits, from the host's memory to the host's memory. `time_ms`, where something comes
    before each request that does not count, such as emptying a cache, does that and times one in milliseconds.
    `device_ms` is a request by the device's own clock. `details` go into the record.
    """

    infer: Callable[[Images], NDArray[Any]]
    time_ms: Callable[[], float] | None = None
    device_ms: float | None = None
    details: dict[str, str] = field(default_factory=dict)


class Adapter(Protocol):
    """What a contender's module has."""

    def prepare(self, job: Job) -> None:
        """Write files that `open_contender` needs, unless they are there; raise `CannotRunError`."""

    def open_contender(self, job: Job) -> Opened:
        """Open the contender; raise `CannotRunError`."""
