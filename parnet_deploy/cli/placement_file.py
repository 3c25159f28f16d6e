"""Read where stages shall run: a JSON object of stages and lanes, or the ranking that `plan --json` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parnet_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from parnet_deploy.artifacts.schemas import Lane

_FORMAT = 'give {"STAGE": "cuda:0/0", ...}, or what `parnet-deploy plan BUNDLE --json` printed'


def read_placement(path: Path, partition: str) -> dict[str, Lane]:
    """Return each stage's lane; of a ranking, the best placement of the bundle's partition.

    Raises:
        ArtifactError: no such file, or one that holds no placement of this partition.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot be read ({error.strerror})", where=path, remedy=_FORMAT) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not valid JSON ({error})", where=path, remedy=_FORMAT) from error
    if isinstance(content, dict) and "ranking" in content:
        content = _best_of_partition(content["ranking"], partition, path)
    if not isinstance(content, dict) or not all(isinstance(lane, str) for lane in content.values()):
        raise ArtifactError("holds no placement", where=path, remedy=_FORMAT)
    return {stage: _parse_lane(lane, path) for stage, lane in content.items()}


def _best_of_partition(ranking: Any, partition: str, path: Path) -> Any:
    entries = [entry for entry in ranking if isinstance(entry, dict)] if isinstance(ranking, list) else []
    found = [entry.get("placement") for entry in entries if entry.get("partition") == partition]
    if not found:
        raise ArtifactError(
            f"the ranking has no placement of partition {partition!r}",
            where=path,
            remedy="rank this bundle: parnet-deploy plan BUNDLE --json",
        )
    return found[0]


def _parse_lane(text: str, path: Path) -> Lane:
    from pydantic import ValidationError

    from parnet_deploy.artifacts.schemas import Lane

    device, _, stream = text.partition("/")
    try:
        return Lane(device=device, stream=int(stream or 0))
    except (ValueError, ValidationError) as error:
        raise ArtifactError(f"{text!r} is no lane", where=path, remedy=_FORMAT) from error
