"""A checkpoint as a predictor: the only part of the checks that needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parnet_deploy.artifacts.folders import ArtifactKind, open_card
from parnet_deploy.artifacts.schemas import Precision
from parnet_deploy.checks.layers import Copy, Layers
from parnet_deploy.checks.provenance import checkpoint_record
from parnet_deploy.models.blocks import unshuffle_channels
from parnet_deploy.models.checkpoints import load_network
from parnet_deploy.planning.layers import network_layers, shuffled_names
from parnet_deploy.planning.partition import LOGITS


class CheckpointPredictor:
    """A network in eval mode on the CPU; in float64 its own rounding is out of the comparison."""

    kind: ArtifactKind = "checkpoint"
    precision: Precision = "fp32"

    def __init__(self, path: Path, *, dtype: Literal["float32", "float64"] = "float32") -> None:
        opened = open_card(path)
        card = opened.manifest
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._network = load_network(opened).to(self._dtype)
        self.record = checkpoint_record(opened)
        self.network = card.network
        self.form = card.form
        self.preprocessing = card.preprocessing
        self.label_names = card.label_names
        self.num_classes = card.network.num_classes

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return logits."""
        with torch.inference_mode():
            return self._network(self._input(images)).numpy()  # type: ignore[no-any-return]

    def predict_tensors(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return every boundary tensor; Fusion outputs in the fused form's order of channels, which is unshuffled."""
        tensors = self._boundaries(images)
        del tensors["last"]
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def predict_layers(self, images: NDArray[Any]) -> Layers:
        """Return every boundary tensor and the result of each block inside the stem and the streams."""
        inner = [layer.block for layer in network_layers(self.network) if layer.tensor == layer.block]
        blocks = {name: self._network.get_submodule(name) for name in inner if "." in name}
        with _results_of(blocks) as results:
            tensors = self._boundaries(images) | results
        return {name: (Copy(None, tensor.numpy()),) for name, tensor in tensors.items()}

    def _input(self, images: NDArray[Any]) -> Tensor:
        return torch.from_numpy(images).to(self._dtype)

    def _boundaries(self, images: NDArray[Any]) -> dict[str, Tensor]:
        with torch.inference_mode():
            tensors = self._network.forward_boundaries(self._input(images))
            tensors[LOGITS] = self._network.forward_head(tensors["last"])
            if self.form == "training":
                for name in shuffled_names(self.network.num_streams):
                    tensors[name] = unshuffle_channels(tensors[name])
        return tensors


@contextmanager
def _results_of(blocks: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect what blocks return while the context is open, by name."""
    results: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, result: results.__setitem__(name, result)

    handles = [block.register_forward_hook(keep(name)) for name, block in blocks.items()]
    try:
        yield results
    finally:
        for handle in handles:
            handle.remove()
