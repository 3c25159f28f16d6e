"""Schema of a verification: how far two artefacts of one network differ, tensor by tensor, and what each of them is.

A number may be infinite (a tensor that holds NaN or infinity differs infinitely); JSON has no such number, so it is the
string `Infinity` or `NaN` there.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, PlainSerializer

from parnet_deploy.artifacts.files import read_manifest
from parnet_deploy.artifacts.schemas import DeviceRecord, Frozen, Parent, Positive, Sha256

VERIFICATION_SCHEMA_VERSION: Final = 1


def _json_number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


Number = Annotated[float, PlainSerializer(_json_number, return_type=float | str, when_used="json")]
Share = Annotated[float, Field(ge=0, le=1)]


class ArtefactRecord(Frozen):
    """An artefact's identity and what it was made by; `precision` is the coarser one where it holds several."""

    kind: Literal["checkpoint", "bundle", "plan"]
    name: str
    sha256: Sha256
    architecture: str
    form: Literal["training", "fused"]
    precision: str
    partition: str | None = None
    parent: Parent | None = None
    tools: dict[str, str] = Field(default_factory=dict)
    devices: tuple[DeviceRecord, ...] = ()


class Environment(Frozen):
    """Where the artefacts were run; nothing that identifies a host or a user."""

    tool_version: str
    processor: str
    capability: str
    python: str
    packages: dict[str, str]


class Tolerance(Frozen):
    """How far tensors may differ, as `Difference` measures it; None: measured, but not judged.

    A tensor also passes where no number differs by more than `absolute`. `noise` is what rounding alone comes to in one
    layer: a layer departs where it differs by over ten times that and ten times its inputs' difference. `agreement` is
    the least share of images with the same most likely class.
    """

    precision: str
    layer: Number | None
    logits: Number | None
    absolute: Number
    noise: Number
    agreement: Share | None = None
    reason: str


class Extent(Frozen):
    """Where two tensors differ: the numbers whose difference is over a tenth of the largest, or not finite.

    `share` is their part of all numbers. `images` and `channels` are the first eight that hold some, of `.._count` such
    and `num_..` in all. `only_border`: all of them lie in the outermost ring of pixels.
    """

    share: Share
    images: tuple[int, ...]
    image_count: int
    num_images: Positive
    channels: tuple[int, ...]
    channel_count: int
    num_channels: Positive
    only_border: bool


class Difference(Frozen):
    """How far two tensors `[N, ...]` differ, in float64.

    `relative` is max|a-b| / max|a|; `norm` is the largest ||a-b|| / ||a|| of an image, `cosine` the least of an image.
    Against a golden file, which holds no whole tensors but the logits, only `norm` is known, as an estimate. Tensors
    that are not finite have no cosine.
    """

    name: str
    max_abs: Number | None
    relative: Number | None
    norm: Number
    cosine: Number | None
    tolerance: Number | None
    passed: bool
    extent: Extent | None = None

    @property
    def size(self) -> float:
        """The larger of both relative measures: what is held to the tolerance."""
        return self.norm if self.relative is None else max(self.relative, self.norm)

    @property
    def is_negligible(self) -> bool:
        """Whether it passes by the floor alone, being large beside a tensor that is all but zero."""
        return self.passed and self.tolerance is not None and self.size > self.tolerance


class LayerDifference(Difference):
    """The difference at one layer.

    `inputs` are the nearest compared tensors that it is computed from, `blocks` the blocks between those and this
    tensor. Where stages repeat a layer, this is the worst copy, in `stage`.
    """

    blocks: tuple[str, ...]
    inputs: tuple[str, ...]
    depth: int
    stage: str | None = None


class Departure(Frozen):
    """The first layer that departs, in topological order; `others` depart too without following from another one."""

    layer: str
    blocks: tuple[str, ...]
    size: Number
    input: str
    input_size: Number
    reason: Literal["not finite", "beyond the tolerance", "grows"]
    others: tuple[str, ...] = ()
    sentence: str


class Comparison(Frozen):
    """The difference between two artefacts on a set of images.

    `tolerance` is what the logits, `agreement` what the classes were held to; None: measured, but not judged.
    """

    images: str
    count: Positive
    logits: Difference
    top1_agreement: Share
    agreement: Share | None = None
    stages: tuple[Difference, ...] = ()
    layers: tuple[LayerDifference, ...] = ()
    tolerance: Number | None
    passed: bool
    departure: Departure | None = None


class Change(Frozen):
    """Something that is no longer what it was when a golden file was written."""

    what: str
    before: str
    after: str


class Verification(Frozen):
    """`report.json` of `verify`: `a` is the reference, an artefact or what a golden file remembers of one."""

    schema_version: Literal[1] = VERIFICATION_SCHEMA_VERSION
    kind: Literal["verification"] = "verification"
    created: str
    a: ArtefactRecord
    b: ArtefactRecord
    is_golden: bool = False
    environment: Environment
    changes: tuple[Change, ...] = ()
    tolerance: Tolerance
    num_blocks: Positive
    comparisons: Annotated[tuple[Comparison, ...], Field(min_length=1)]
    passed: bool


def read_verification(folder: Path) -> Verification:
    """Read the report in `folder`; raise `ArtifactError` if it is missing, damaged or of another schema version."""
    report, _ = read_manifest(
        folder / "report.json", Verification, kind="verification", schema_version=VERIFICATION_SCHEMA_VERSION
    )
    return report
