"""Accuracies compared with counts made by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parnet_deploy.errors import DataError
from parnet_deploy.training.evaluation import evaluate_model


class Echo(nn.Module):
    """Return the images as logits, with dropout to show whether it is in eval mode."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.drop = nn.Dropout(0.9)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x) + self.bias  # type: ignore[no-any-return]


def logits(*order: int, num_classes: int = 8) -> Tensor:
    """Return logits that rank the classes of `order` first, the others equal and last."""
    row = torch.full((num_classes,), -1.0)
    for rank, label in enumerate(order):
        row[label] = 10.0 - rank
    return row


def test_top1_and_top5_are_counted_over_batches_of_different_size() -> None:
    batches = [
        (torch.stack([logits(3, 1, 2, 4, 5), logits(0, 1, 2, 3, 4), logits(7, 6, 5, 4, 3)]), torch.tensor([3, 4, 2])),
        (torch.stack([logits(1, 0, 2, 3, 4)]), torch.tensor([0])),
    ]
    # Right at once: the first of four. Among five: all but the third.
    assert evaluate_model(Echo(8), batches) == {"top1": 25.0, "top5": 75.0}  # type: ignore[arg-type]


def test_with_few_classes_top5_counts_them_all() -> None:
    batches = [(torch.stack([logits(0, 1, num_classes=2), logits(0, 1, num_classes=2)]), torch.tensor([0, 1]))]
    assert evaluate_model(Echo(2), batches) == {"top1": 50.0, "top5": 100.0}  # type: ignore[arg-type]


def test_what_is_gathered_is_counted() -> None:
    batches = [(logits(0)[None], torch.tensor([1]))]
    doubled = evaluate_model(
        Echo(8),  # type: ignore[arg-type]
        batches,
        gather=lambda batch: (torch.cat([batch[0], logits(2)[None]]), torch.cat([batch[1], torch.tensor([2])])),
    )
    assert doubled["top1"] == 50.0


def test_an_image_that_cannot_be_decoded_ends_it() -> None:
    with pytest.raises(DataError, match="broken"):
        evaluate_model(Echo(8), [DataError("broken")])  # type: ignore[arg-type]
