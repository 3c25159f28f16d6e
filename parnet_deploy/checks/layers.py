"""What an artefact tells about its layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from numpy.typing import NDArray

from parnet_deploy.artifacts.schemas import Stage

Array = NDArray[Any]


class Copy(NamedTuple):
    """One stage's reading of a layer `[N, ...]`: stages may repeat the stem. `stage` is None where there are none."""

    stage: str | None
    array: Array


# The copies of each layer, by the layer's tensor; at least one.
Layers = dict[str, tuple[Copy, ...]]


def layers_between(stages: Iterable[Stage], tensors: Mapping[str, Array]) -> Layers:
    """Return the tensors that stages hand on, each as its maker's."""
    return {name: (Copy(stage.name, tensors[name]),) for stage in stages for name in stage.outputs}
