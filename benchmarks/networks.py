"""The networks in torch: ParNet as a user would write it, ResNets of timm; and their plain export."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case
from benchmarks.contenders.base import SEED, Job


def create_network(case: Case, form: str) -> nn.Module:
    """Return a network with random weights in eval mode; the same weights in each form."""
    if not case.is_parnet:
        import timm

        torch.manual_seed(SEED)
        network: nn.Module = timm.create_model(case.network, pretrained=False)
        return network.eval().requires_grad_(False)
    from benchmarks.straightforward import StraightforwardParNet
    from parnet_deploy.models.initialization import create_random_network
    from parnet_deploy.models.variants import get_variant

    cfg = get_variant(case.network).network
    parnet = StraightforwardParNet(
        cfg.planes,  # type: ignore[arg-type]
        cfg.num_blocks,  # type: ignore[arg-type]
        cfg.last_planes,
        stem=cfg.stem[0],
        classes=cfg.num_classes,
    )
    parnet.load(create_random_network(cfg, SEED).state_dict())
    parnet.eval().requires_grad_(False)
    if form == "fused":
        parnet.fuse()
    return parnet


def export_plain(job: Job) -> None:
    """Export a network with one call of `torch.onnx.export` and nothing else, unless that was done."""
    if job.onnx_path.exists():
        return
    network = create_network(job.case, job.form)
    partial = job.onnx_path.with_suffix(".partial")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.from_numpy(job.images()),),
            str(partial),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            external_data=False,
        )
    partial.rename(job.onnx_path)


def describe(case: Case, path: Path) -> None:
    """Write what a request costs: operations of the network as the paper counts it, fused, and parameters."""
    form = "fused" if case.is_parnet else "unfused"
    network = create_network(case, form)
    image = torch.zeros(1, 3, case.pixels, case.pixels)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    gflop = int(counter.get_total_flops()) * case.batch / 1e9
    path.write_text(json.dumps({"gflop": gflop, "parameters": parameters}))
