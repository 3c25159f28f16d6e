"""The one torch.onnx call: a whole network as an ONNX graph whose boundary tensors carry their names."""

from __future__ import annotations

import contextlib
import io
import warnings

import onnx_ir as ir
import torch
from torch import Tensor, nn

from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.errors import ExportError
from parnet_deploy.graphs.stages import OPSET
from parnet_deploy.models.parnet import ParNet
from parnet_deploy.planning.partition import IMAGE, LOGITS


class _Boundaries(nn.Module):
    """Return every boundary tensor as an output, so that no clean-up can rename or remove it."""

    def __init__(self, net: ParNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        tensors = self.net.forward_boundaries(image)
        return {**tensors, LOGITS: self.net.forward_head(tensors.pop("last"))}


def named_tensors(model: ParNet, images: Tensor) -> dict[str, Tensor]:
    """Return all boundary tensors and the logits of a network for images `[N, C, H, W]`."""
    with torch.no_grad():
        return _Boundaries(model)(images)  # type: ignore[no-any-return]


def export_graph(model: ParNet, size: tuple[int, int], batch: BatchRange) -> ir.Model:
    """Export a network in eval mode for images of `size` (H, W); all boundary tensors are outputs.

    Raises:
        NetworkError: a size that the network cannot take.
        ExportError: torch.onnx failed.
    """
    # A traced batch of 1 would be specialised to a constant, so a dynamic batch is traced with 2.
    images = torch.zeros(2 if batch.is_dynamic else batch.opt, model.cfg.in_chans, *size)
    names = list(named_tensors(model, images))
    dynamic = {"image": {0: torch.export.Dim("N", min=batch.min, max=batch.max)}} if batch.is_dynamic else None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _Boundaries(model).eval(),
                (images,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGE],
                output_names=names,
                dynamic_shapes=dynamic,
                verbose=False,
            )
        except Exception as error:  # torch.onnx raises whatever the failing pass raised
            raise ExportError(f"torch.onnx failed ({type(error).__name__}: {error})") from error
    if program is None:
        raise ExportError("torch.onnx returned no program")
    return program.model
