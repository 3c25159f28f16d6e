"""Keep engines and timings between builds, each under a key of everything that they depend on.

An engine is kept as `KEY.engine` with `KEY.json`, which holds its sha256; what does not match is built again.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from parnet_deploy.artifacts.files import replacing_file, sha256_of_bytes, sha256_of_file
from parnet_deploy.artifacts.schemas import DeviceRecord, FileRecord, Frozen
from parnet_deploy.engines.base import StageSpec
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.errors import ArtifactError

_log = logging.getLogger(__name__)


class CacheEntry(Frozen):
    """`KEY.json`: what the engine depends on, its hash, and its layers."""

    key: dict[str, Any]
    file: FileRecord
    layers: dict[str, int]


def engine_key(
    onnx_path: Path, spec: StageSpec, version: str, device: DeviceRecord, options: BuildOptions
) -> dict[str, Any]:
    """Return everything that decides an engine, as JSON values."""
    return {
        "onnx_sha256": sha256_of_file(onnx_path),
        "batch": spec.batch.model_dump(),
        "tensors": {name: tensor.model_dump(mode="json") for name, tensor in sorted(spec.tensors.items())},
        "options": options.as_record(),
        "tensorrt": version,
        "gpu": device.name,
        "capability": device.capability,
    }


@dataclass(frozen=True)
class RuntimeCacheFile:
    """Kernels of one engine on one GPU, as TensorRT for RTX serializes them; it refuses what is not its own."""

    path: Path

    def read(self) -> bytes:
        """Return what was kept; nothing is empty."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def write(self, data: bytes) -> None:
        """Keep kernels; where that fails, which a warning says, they are compiled again next time."""
        try:
            _write(self.path, data)
        except ArtifactError as error:
            _log.warning("compiled kernels are not kept: %s", error.what)


@dataclass(frozen=True)
class EngineCache:
    """A folder of engines and timing caches; several processes may use it."""

    folder: Path

    def find(self, key: dict[str, Any]) -> tuple[bytes, dict[str, int]] | None:
        """Return an engine and its layers, or nothing if there is none or it is not what was stored."""
        path = self.folder / f"{_name(key)}.json"
        try:
            entry = CacheEntry.model_validate_json(path.read_bytes())
            data = path.with_suffix(".engine").read_bytes()
        except (OSError, ValidationError):
            return None
        if entry.key != key or sha256_of_bytes(data) != entry.file.sha256:
            return None
        return data, entry.layers

    def store(self, key: dict[str, Any], data: bytes, layers: dict[str, int]) -> None:
        """Keep an engine.

        Raises:
            ArtifactError: the folder cannot be written.
        """
        name = _name(key)
        file = FileRecord(name=f"{name}.engine", sha256=sha256_of_bytes(data), size_bytes=len(data))
        _write(self.folder / file.name, data)
        _write(self.folder / f"{name}.json", CacheEntry(key=key, file=file, layers=layers).model_dump_json().encode())

    def timings(self, version: str, device: DeviceRecord) -> bytes:
        """Return the timings of this GPU and version; none are empty."""
        try:
            return self._timing_path(version, device).read_bytes()
        except OSError:
            return b""

    def store_timings(self, version: str, device: DeviceRecord, data: bytes) -> None:
        """Keep the timings of this GPU and version."""
        _write(self._timing_path(version, device), data)

    def kernels(self, engine_path: Path, version: str, device: DeviceRecord) -> RuntimeCacheFile:
        """Return where the kernels that TensorRT for RTX compiles for an engine on this GPU are kept."""
        key = {"engine": sha256_of_file(engine_path), "tensorrt": version, "gpu": device.name}
        return RuntimeCacheFile(self.folder / f"{_name(key)}.kernels")

    def _timing_path(self, version: str, device: DeviceRecord) -> Path:
        key = {"tensorrt": version, "gpu": device.name, "capability": device.capability}
        return self.folder / f"{_name(key)}.timings"


def _name(key: dict[str, Any]) -> str:
    return sha256_of_bytes(json.dumps(key, sort_keys=True).encode())


def _write(path: Path, data: bytes) -> None:
    try:
        with replacing_file(path, force=True) as temporary:
            temporary.write_bytes(data)
    except ArtifactError as error:
        remedy = "name another folder with --engine-cache, or pass --no-engine-cache"
        raise ArtifactError(error.what, where=error.where, remedy=remedy) from error
