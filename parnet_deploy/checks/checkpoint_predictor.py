"""A checkpoint as a predictor: the only part of the checks that needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from parnet_deploy.artifacts.folders import ArtifactKind, open_card
from parnet_deploy.artifacts.schemas import Precision
from parnet_deploy.models.blocks import unshuffle_channels
from parnet_deploy.models.checkpoints import load_network
from parnet_deploy.planning.partition import LOGITS, fusion_name


class CheckpointPredictor:
    """A network in eval mode, in float32 on the CPU."""

    kind: ArtifactKind = "checkpoint"
    precision: Precision = "fp32"

    def __init__(self, path: Path) -> None:
        opened = open_card(path)
        card = opened.manifest
        self._network = load_network(opened)
        self.form = card.form
        self.preprocessing = card.preprocessing
        self.label_names = card.label_names
        self.num_classes = card.network.num_classes

    def predict(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return logits."""
        with torch.inference_mode():
            return self._network(torch.from_numpy(images)).numpy()  # type: ignore[no-any-return]

    def predict_tensors(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return every boundary tensor; Fusion outputs in the fused form's order of channels, which is unshuffled."""
        with torch.inference_mode():
            tensors = self._network.forward_boundaries(torch.from_numpy(images))
            tensors[LOGITS] = self._network.forward_head(tensors.pop("last"))
            if self.form == "training":
                for i in range(2, self._network.cfg.num_streams + 1):
                    tensors[fusion_name(i)] = unshuffle_channels(tensors[fusion_name(i)])
        return {name: tensor.numpy() for name, tensor in tensors.items()}
