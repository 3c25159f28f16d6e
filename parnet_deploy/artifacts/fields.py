"""What the schemas of all artefacts are made of: closed models, names, hashes, records of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from parnet_deploy.artifacts.files import sha256_of_file
from parnet_deploy.errors import ArtifactError

# A name, never a path: no separator, no leading dot.
FileName = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
StageName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Positive = Annotated[int, Field(gt=0)]


class Frozen(BaseModel):
    """Immutable and closed: an unknown field is an error, so that a newer or forged manifest is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(Frozen):
    """A file of the artefact's own folder, named with its hash."""

    name: FileName
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, path: Path, *, name: str | None = None) -> Self:
        """Describe an existing file, under another name if it is still a temporary one."""
        return cls(name=name or path.name, sha256=sha256_of_file(path), size_bytes=path.stat().st_size)

    def check(self, path: Path) -> None:
        """Compare the size and hash of the file at `path`, which may have been renamed.

        Raises:
            ArtifactError: the file is missing or is not the one that was recorded.
        """
        if not path.is_file():
            raise ArtifactError("the file is missing", where=path, remedy="make the artefact again")
        size_bytes = path.stat().st_size
        if size_bytes != self.size_bytes:
            raise ArtifactError(
                f"{size_bytes} bytes where the manifest says {self.size_bytes}",
                where=path,
                remedy="the file was changed or cut short; make the artefact again",
            )
        if sha256_of_file(path) != self.sha256:
            raise ArtifactError(
                "the sha256 differs from the manifest's", where=path, remedy="the file was changed; make it again"
            )


class Parent(Frozen):
    """The artefact that this one was made from; `sha256` is of its manifest."""

    kind: Literal["checkpoint", "bundle", "file"]
    name: str
    sha256: Sha256
