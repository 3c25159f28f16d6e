"""Read a bundle to be quantised: its whole graph, the layers in it, and the form that the target wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from parnet_deploy.artifacts.folders import OpenBundle
from parnet_deploy.artifacts.quantization import Method, Target, WeightBits
from parnet_deploy.artifacts.schemas import Precision, Stage
from parnet_deploy.errors import QuantizationError
from parnet_deploy.graphs.join import join_stages
from parnet_deploy.graphs.run import with_free_batch
from parnet_deploy.planning.partition import IMAGE, partition
from parnet_deploy.quantize.grids import FloatType
from parnet_deploy.quantize.layers import Form, Layer, find_layers, form_for

FloatPrecision = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise.

    `weight_bits` of 7 keep sums from saturating on processors without VNNI. `float_precision` is of what is not
    quantised, by default fp16 for TensorRT and fp32 for processors. `method` is chosen by measurement unless it is
    named. `images` calibrate. At most `max_drop` points may be lost; layers with at most `max_float_share` of the
    operations may stay in float for that. `partition` cuts the graph anew.
    """

    target: Target = "cpu"
    precision: Precision = "int8"
    weight_bits: WeightBits = 8
    float_precision: FloatPrecision | None = None
    method: Method | None = None
    images: int = 256
    max_drop: float = 0.5
    max_float_share: float = 0.2
    partition: str | None = None


@dataclass(frozen=True)
class Source:
    """A float32 network, whole, and the stages that it will be cut into; `free` is it for any number of images."""

    opened: OpenBundle
    whole: ir.Model
    free: ir.Model
    metadata: dict[str, str]
    layers: tuple[Layer, ...]
    stages: tuple[Stage, ...]
    partition: str
    form: Form
    float_precision: FloatPrecision

    @property
    def float_type(self) -> FloatType:
        """The type of scales."""
        return np.float16 if self.float_precision == "fp16" else np.float32

    @property
    def boundaries(self) -> frozenset[str]:
        """Tensors between stages."""
        return frozenset(name for stage in self.stages for name in stage.inputs) - {IMAGE}

    @property
    def operations(self) -> int:
        """Operations of all layers for one sample."""
        return sum(layer.operations for layer in self.layers)


def read_source(opened: OpenBundle, options: QuantizeOptions) -> Source:
    """Put the bundle's stages together and look for its layers.

    Raises:
        QuantizationError: a bundle that is not fused or not float32, or a target that has no such precision or bits.
        ExportError: no partition of that name.
    """
    manifest = opened.manifest
    if manifest.form != "fused":
        raise QuantizationError(
            "the bundle is in training form, whose batch norms would be quantised apart from the convolutions",
            where=opened.folder,
            remedy="fuse the checkpoint (parnet-deploy fuse), export it, and quantise that",
        )
    if manifest.precision != "fp32":
        raise QuantizationError(
            f"the bundle is {manifest.precision} already", where=opened.folder, remedy="export with --precision fp32"
        )
    form = form_for(options.target, options.precision, options.weight_bits)
    name = options.partition or manifest.partition
    stages = partition(manifest.network, name)
    models = [ir.load(opened.file_of(stage.name)) for stage in manifest.stages]
    whole = join_stages(models)
    return Source(
        opened=opened,
        whole=whole,
        free=with_free_batch(whole),
        metadata=dict(models[0].metadata_props),
        layers=find_layers(whole),
        stages=stages,
        partition=name,
        form=form,
        float_precision=_float_precision(options),
    )


def _float_precision(options: QuantizeOptions) -> FloatPrecision:
    if options.target == "tensorrt":
        return options.float_precision or "fp16"
    if options.float_precision == "fp16":
        raise QuantizationError(
            f"target {options.target!r} keeps in float32 what is not quantised: processors have no float16 arithmetic",
            remedy="leave out --float-precision",
        )
    return "fp32"
