"""Schema of a golden file: what an artefact answered once, small enough to be kept beside a user's code.

The logits are kept whole; every other tensor as a fingerprint. One JSON file, no pickle. Its last field is the sha256
of the others, so that a file that was cut, merged or edited is told from one that an engine no longer agrees with.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from parnet_deploy.artifacts.files import read_manifest, replacing_file, sha256_of_bytes
from parnet_deploy.artifacts.schemas import Frozen, NetworkConfig, Positive, Preprocessing, Sha256
from parnet_deploy.artifacts.verification import ArtefactRecord, Environment, Number
from parnet_deploy.errors import ArtifactError

GOLDEN_SCHEMA_VERSION: Final = 1
MAX_GOLDEN_BYTES: Final = 2**20

ImageSource = Literal["synthetic", "digits", "photographs", "files"]


class PackedArray(Frozen):
    """A float64 array: its bytes, little-endian in C order, in base64."""

    shape: tuple[Annotated[int, Field(ge=0)], ...]
    base64: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> Self:
        """Pack an array of numbers."""
        packed = np.ascontiguousarray(array, dtype="<f8")
        return cls(shape=packed.shape, base64=base64.b64encode(packed.tobytes()).decode("ascii"))

    def unpack(self) -> NDArray[np.float64]:
        """Return the array."""
        data = np.frombuffer(base64.b64decode(self.base64), dtype="<f8")
        return data.reshape(self.shape).astype(np.float64)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            size = len(base64.b64decode(self.base64, validate=True))
        except binascii.Error as error:
            raise ValueError(f"not base64 ({error})") from error
        if size != 8 * math.prod(self.shape):
            raise ValueError(f"{size} bytes for an array of {list(self.shape)} float64")
        return self


class ImageSet(Frozen):
    """Which images they were; `sha256` is of the preprocessed pixels, float32 [N, C, H, W], little-endian.

    Synthetic ones are drawn again from their seed. Of `files` only the hash is kept.
    """

    name: str
    source: ImageSource
    seed: int | None = None
    count: Positive
    sha256: Sha256


class Fingerprint(Frozen):
    """What is kept of a tensor: its bytes' hash, its range, each image's norm and sketch (`checks.sketch`).

    `shape` is per image. Of a tensor that several stages compute, this is the first copy.
    """

    dtype: Literal["float16", "float32", "float64"]
    shape: tuple[Positive, ...]
    sha256: Sha256
    minimum: Number
    maximum: Number
    mean: Number
    norms: tuple[Number, ...]
    sketch: PackedArray


class GoldenSet(Frozen):
    """What was answered to one set of images."""

    images: ImageSet
    logits: PackedArray
    tensors: dict[str, Fingerprint]

    @model_validator(mode="after")
    def _counts_fit(self) -> Self:
        count = self.images.count
        rows = [self.logits.shape[:1], *(entry.sketch.shape[:1] for entry in self.tensors.values())]
        rows += [(len(entry.norms),) for entry in self.tensors.values()]
        if any(found != (count,) for found in rows):
            raise ValueError(f"not {count} rows for {count} images")
        return self


class Golden(Frozen):
    """A golden file. `tolerance` is the one that was asked for, None for that of the precisions compared."""

    schema_version: Literal[1] = GOLDEN_SCHEMA_VERSION
    kind: Literal["golden"] = "golden"
    created: str
    artefact: ArtefactRecord
    network: NetworkConfig
    preprocessing: Preprocessing
    environment: Environment
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    sets: Annotated[tuple[GoldenSet, ...], Field(min_length=1)]
    sha256: Sha256 = "0" * 64


def _content_sha256(golden: Golden) -> str:
    content = golden.model_dump(mode="json", exclude={"sha256"})
    return sha256_of_bytes(json.dumps(content, sort_keys=True).encode())


def write_golden(path: Path, golden: Golden, *, force: bool) -> None:
    """Write a golden file, whole or not at all.

    Raises:
        OutputExistsError: the file exists and `force` is not set.
        ArtifactError: it would be larger than `MAX_GOLDEN_BYTES`, or cannot be written.
    """
    sealed = golden.model_copy(update={"sha256": _content_sha256(golden)})
    data = (json.dumps(sealed.model_dump(mode="json"), indent=1) + "\n").encode()
    if len(data) > MAX_GOLDEN_BYTES:
        raise ArtifactError(
            f"{len(data)} bytes are more than a golden file may have, {MAX_GOLDEN_BYTES}",
            where=path,
            remedy="take fewer images: --count",
        )
    with replacing_file(path, force=force) as temporary:
        temporary.write_bytes(data)


def read_golden(path: Path) -> Golden:
    """Read a golden file; raise `ArtifactError` if it is missing, damaged or of another schema version."""
    if not path.is_file():
        raise ArtifactError("no such golden file", where=path, remedy="write one: verify ARTEFACT --write-golden FILE")
    golden, _ = read_manifest(path, Golden, kind="golden", schema_version=GOLDEN_SCHEMA_VERSION)
    if _content_sha256(golden) != golden.sha256:
        raise ArtifactError(
            "the content does not have the sha256 that the file says",
            where=path,
            remedy="the file was changed or merged; take it from version control again, or write it anew",
        )
    return golden
