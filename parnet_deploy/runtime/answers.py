"""What is held against every answer before people or files get it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.errors import InferenceError


def require_finite(logits: NDArray[Any], where: str | Path) -> None:
    """Raise `InferenceError` if any of the logits [N, classes] is not finite: no class is likeliest then."""
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits).all(axis=1)).sum())
        raise InferenceError(
            f"NaN or infinite logits for {rows} of {len(logits)} images",
            where=where,
            remedy="find the layer that they come from: parnet-deploy verify CHECKPOINT ARTEFACT --per-layer",
        )
