"""Open bundles and plans: a folder with a manifest, every file checked by hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from parnet_deploy.artifacts.files import read_manifest
from parnet_deploy.artifacts.onnx_files import refuse_external_data
from parnet_deploy.artifacts.schemas import SCHEMA_VERSION, Bundle, Card, FileRecord, Parent, Plan
from parnet_deploy.errors import ArtifactError

ArtifactKind = Literal["checkpoint", "bundle", "plan"]

# Files that are hashed at the same time: hashing is bound by one core long before it is by a disk.
_HASHED_AT_ONCE = 4


@dataclass(frozen=True)
class OpenBundle:
    """A bundle on disk whose files were checked; `sha256` is of its manifest."""

    folder: Path
    manifest: Bundle
    sha256: str

    def file_of(self, stage: str) -> Path:
        """Return the ONNX file of a stage."""
        return self.folder / next(entry.file.name for entry in self.manifest.stages if entry.name == stage)

    def as_parent(self) -> Parent:
        """Name this bundle as the parent of what is made from it."""
        return Parent(kind="bundle", name=self.folder.name, sha256=self.sha256)


@dataclass(frozen=True)
class OpenPlan:
    """A plan on disk whose files were checked; `sha256` is of its manifest."""

    folder: Path
    manifest: Plan
    sha256: str

    def file_of(self, stage: str) -> Path:
        """Return the engine file of a stage."""
        return self.folder / next(entry.file.name for entry in self.manifest.engines if entry.stage == stage)


@dataclass(frozen=True)
class OpenCard:
    """A checkpoint on disk whose weights were checked; `sha256` is of its card."""

    weights_path: Path
    manifest: Card
    sha256: str

    def as_parent(self) -> Parent:
        """Name this checkpoint as the parent of what is made from it."""
        return Parent(kind="checkpoint", name=self.weights_path.name, sha256=self.sha256)


def card_path_of(weights_path: Path) -> Path:
    """Return `NAME.json` for `NAME.safetensors`."""
    return weights_path.with_suffix(".json")


def open_bundle(folder: Path) -> OpenBundle:
    """Read a bundle and check every file's hash; raise `ArtifactError` on any difference."""
    manifest, sha256 = read_manifest(folder / "bundle.json", Bundle, kind="bundle", schema_version=SCHEMA_VERSION)
    quantization = manifest.quantization
    extras = () if quantization is None else (quantization.report, quantization.picture)
    records = [*(file for file in extras if file is not None), *(stage.file for stage in manifest.stages)]
    _check_all(folder, records)
    for stage in manifest.stages:
        refuse_external_data(folder / stage.file.name)
    return OpenBundle(folder, manifest, sha256)


def open_plan(folder: Path, meanwhile: Callable[[Plan], object] = lambda _: None) -> OpenPlan:
    """Read a plan and check every file's hash; raise `ArtifactError` on any difference.

    `meanwhile` is called with the manifest while files are hashed, for what needs none of them.
    """
    manifest, sha256 = read_manifest(folder / "plan.json", Plan, kind="plan", schema_version=SCHEMA_VERSION)
    records = [] if manifest.tuning is None else [manifest.tuning.record]
    files = [*records, *(file for engine in manifest.engines for file in engine.files)]
    _check_all(folder, files, meanwhile=lambda: meanwhile(manifest))
    for engine in manifest.engines:
        if engine.file.name.endswith(".onnx"):
            refuse_external_data(folder / engine.file.name, None if engine.weights is None else engine.weights.name)
    return OpenPlan(folder, manifest, sha256)


def _check_all(folder: Path, records: Sequence[FileRecord], meanwhile: Callable[[], object] = lambda: None) -> None:
    """Check files while `meanwhile` runs, and raise the first difference when it has returned."""
    with ThreadPoolExecutor(_HASHED_AT_ONCE, thread_name_prefix="hash") as pool:
        checks = [pool.submit(record.check, folder / record.name) for record in records]
        meanwhile()
        for check in checks:
            check.result()


def open_card(weights_path: Path) -> OpenCard:
    """Read the card beside a checkpoint and check the weights' hash; raise `ArtifactError` on any difference."""
    if not weights_path.is_file():
        raise ArtifactError("no such checkpoint", where=weights_path, remedy="pass a .safetensors file")
    if weights_path.suffix != ".safetensors":
        raise ArtifactError(
            "not a .safetensors file",
            where=weights_path,
            remedy="the authors' .pth.tar files become checkpoints with: parnet-deploy import FILE -o OUT.safetensors",
        )
    card_path = card_path_of(weights_path)
    if not card_path.is_file():
        raise ArtifactError("the checkpoint's card is missing", where=card_path, remedy="keep NAME.json beside it")
    manifest, sha256 = read_manifest(card_path, Card, kind="checkpoint", schema_version=SCHEMA_VERSION)
    manifest.weights.check(weights_path)
    return OpenCard(weights_path, manifest, sha256)


def kind_of(path: Path) -> ArtifactKind:
    """Tell what kind of artefact a path holds, without reading it whole; raise `ArtifactError` if none."""
    if path.is_dir():
        for kind, name in (("plan", "plan.json"), ("bundle", "bundle.json")):
            if (path / name).is_file():
                return kind  # type: ignore[return-value]
        raise ArtifactError("the folder holds no bundle.json or plan.json", where=path, remedy="pass a bundle or plan")
    if not path.exists():
        raise ArtifactError("no such file or folder", where=path, remedy="pass a checkpoint, bundle or plan")
    return "checkpoint"
