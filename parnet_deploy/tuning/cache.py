"""Keep what tunings found, so that the same question is measured once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from parnet_deploy import __version__
from parnet_deploy.artifacts.files import read_manifest, replacing_file, write_manifest
from parnet_deploy.artifacts.tuning import TUNING_SCHEMA_VERSION, TuningLimits, TuningReport
from parnet_deploy.errors import ArtifactError
from parnet_deploy.tuning.question import Question


def default_cache_dir() -> Path:
    """Return the user's cache folder for tunings: below `XDG_CACHE_HOME`, or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parnet-deploy" / "tuning"


def cache_key(question: Question, limits: TuningLimits, *, with_crossover: bool) -> str:
    """Return as a hash what a result depends on: bundles, backends' versions, machine, cores, limits and images."""
    content = {
        "tool": __version__,
        "bundles": [bundle.model_dump() for bundle in question.describe_bundles()],
        "backends": dict(question.versions),
        "machine": question.machine.model_dump(exclude={"load_before"}),
        "cores": list(question.cores),
        "limits": limits.model_dump(),
        "data": _folder_state(limits.data),
        "crossover": with_crossover,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _folder_state(data: str | None) -> list[tuple[str, int, int]]:
    """Return the files of an image folder with their sizes and times; reading all of them would take too long."""
    if data is None or not Path(data).is_dir():
        return []
    found = ((path, path.stat()) for path in sorted(Path(data).rglob("*")))
    return [(str(path.relative_to(data)), stat.st_size, stat.st_mtime_ns) for path, stat in found]


def read_cached(folder: Path, key: str) -> TuningReport | None:
    """Return the report of an earlier tuning; None if there is none, or none that can be read."""
    path = folder / f"{key}.json"
    if not path.is_file():
        return None
    try:
        return read_manifest(path, TuningReport, kind="tuning", schema_version=TUNING_SCHEMA_VERSION)[0]
    except ArtifactError:
        return None


def write_cached(folder: Path, key: str, report: TuningReport) -> None:
    """Keep a report; raise `ArtifactError` if it cannot be written."""
    with replacing_file(folder / f"{key}.json", force=True) as temporary:
        write_manifest(temporary, report)
