"""Fuse a trained ParNet: every block by its rule, the input untouched."""

from __future__ import annotations

import copy

import torch
from torch import nn

from parnet_deploy.errors import FusionError
from parnet_deploy.fusion.rules import RULES
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.planning.partition import fusion_name


def fuse(model: nn.Module) -> ParNet:
    """Return the fused form of a ParNet in eval mode; it computes the same function with no batch norm left.

    A model that is fused already is returned as it is.

    Raises:
        FusionError: no ParNet, a model in training mode, or a block that no rule covers.
    """
    if not isinstance(model, ParNet):
        raise FusionError(f"{type(model).__name__} is no ParNet", remedy="pass a model of parnet_deploy.models")
    if any(module.training for module in model.modules()):
        raise FusionError(
            "the model is in training mode, where batch norms follow the batch and cannot be folded",
            remedy="call model.eval() first",
        )
    if model.form == "fused":
        return model
    with torch.device("meta"):  # every child is replaced, so no weight need be allocated or drawn
        made = ParNet(model.cfg, form="fused", num_classes=model.num_classes)
    for name, child in model.named_children():
        setattr(made, name, _fuse_child(name, child, unshuffled=_reads_unshuffled(model, name)))
    return made.requires_grad_(False).eval()


def _reads_unshuffled(model: ParNet, name: str) -> bool:
    """Tell whether a child reads the output of a Fusion block: that of the last one, or of the finer one before it."""
    streams = model.cfg.num_streams
    readers = {fusion_name(i) for i in range(3, streams + 1)} | ({"last"} if streams > 1 else set())
    return name in readers


def _fuse_child(name: str, child: nn.Module, *, unshuffled: bool) -> nn.Module:
    if name == "head":
        return copy.deepcopy(child)
    if isinstance(child, nn.Sequential):
        return nn.Sequential(*(_fuse_block(f"{name}.{i}", block, False) for i, block in child.named_children()))
    return _fuse_block(name, child, unshuffled)


def _fuse_block(name: str, block: nn.Module, unshuffled: bool) -> nn.Module:
    # Exact type: a subclass may compute something else, and a rule that half fits would be wrong in silence.
    rule = RULES.get(type(block))
    if rule is None:
        raise FusionError(
            f"no rule for a block of type {type(block).__name__}",
            where=name,
            remedy=f"rules exist for {', '.join(sorted(kind.__name__ for kind in RULES))}",
        )
    return rule(block, unshuffled)
