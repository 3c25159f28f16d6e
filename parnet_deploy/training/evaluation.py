"""Measure top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torchmetrics.classification import MulticlassAccuracy

from parnet_deploy.errors import DataError
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.training.datasets import Batch, batches_of


def evaluate_model(
    model: ParNet, loader: Iterable[Batch | DataError], *, gather: Callable[[Batch], Batch] = lambda batch: batch
) -> dict[str, float]:
    """Return `top1` and `top5` in percent; with fewer than five classes, `top5` counts them all and is 100.

    The model is put into eval mode. `gather` joins each process's (logits, labels); accelerate's `gather_for_metrics`.
    """
    device = next(model.parameters()).device
    metrics = {
        f"top{k}": MulticlassAccuracy(
            model.num_classes, top_k=min(k, model.num_classes), average="micro", sync_on_compute=False
        ).to(device)
        for k in (1, 5)
    }
    model.eval()
    with torch.inference_mode():
        for images, labels in batches_of(loader):
            logits, gathered_labels = gather((model(images), labels))
            for metric in metrics.values():
                metric.update(logits, gathered_labels)
    return {name: 100 * float(metric.compute()) for name, metric in metrics.items()}
