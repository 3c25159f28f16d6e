"""What a quantised bundle says of how it was made: the record in `bundle.json`, and its report per layer and tensor.

Accuracies, agreements and drops are in points (percent); ratios of signal to noise in dB.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from parnet_deploy.artifacts.fields import FileRecord, Frozen, Positive, Sha256

Target = Literal["cpu", "openvino", "tensorrt"]
WeightBits = Literal[7, 8]
Method = Literal["min-max", "percentile", "mse", "entropy"]
LayerKind = Literal["convolution", "gate", "linear"]
Share = Annotated[float, Field(ge=0, le=1)]
Points = Annotated[float, Field(ge=0, le=100)]


class ImageSet(Frozen):
    """Images that decided something; `sha256` is of their preprocessed pixels, in order."""

    source: str
    count: Positive
    sha256: Sha256


class GateRecord(Frozen):
    """The quantised network against the float one on the same images.

    `criterion` "accuracy" counts right answers of labelled images, "agreement" counts equal answers where there are no
    labels. `broken` images were right (or are no longer answered alike), `mended` ones wrong before. `drop` is the
    difference in points, `interval` its 95% confidence interval for paired images, `resolution` one image in points.
    """

    criterion: Literal["accuracy", "agreement"]
    images: ImageSet
    before: Points
    after: Points
    broken: Annotated[int, Field(ge=0)]
    mended: Annotated[int, Field(ge=0)]
    drop: float
    interval: tuple[float, float]
    resolution: Annotated[float, Field(gt=0)]
    max_drop: float


class Attempt(Frozen):
    """A candidate that was held against the gate: how many layers it left in float, and its drop in points."""

    float_layers: Annotated[int, Field(ge=0)]
    drop: float


class Quantization(Frozen):
    """How a bundle was quantised.

    `weight_bits` of 7, stored in 8, leave room for sums of products, which without VNNI are added in 16 bits and may
    saturate. `layers` counts those that could be quantised, `float_layers` names those that were not, `float_share` is
    their share of the operations. `calibration` images gave the ranges of the tensors, `selection` images chose the
    method and ranked the layers; the gate was judged on others. `gate` is the one that the bundle passed, the last of
    `attempts`. Gate, report and picture are there once it is passed.
    """

    target: Target
    weight_bits: WeightBits = 8
    float_precision: Literal["fp32", "fp16"]
    method: Method
    bias_correction: bool
    calibration: ImageSet
    selection: ImageSet
    layers: Positive
    float_layers: tuple[str, ...] = ()
    float_share: Share
    attempts: tuple[Attempt, ...] = ()
    gate: GateRecord | None = None
    report: FileRecord | None = None
    picture: FileRecord | None = None


class LayerSensitivity(Frozen):
    """What quantising one layer alone, without bias correction, does to the logits of the selection images.

    `sqnr_db` is the ratio of the logits' energy to that of their change, `changed` how many images are answered
    otherwise. `share` is the layer's share of the operations.
    """

    name: str
    kind: LayerKind
    block: str
    weights: Positive
    share: Share
    sqnr_db: float
    changed: Annotated[int, Field(ge=0)]
    is_float: bool


class TensorRange(Frozen):
    """A quantised tensor: what was seen on the calibration images, the range that was chosen, and its steps."""

    name: str
    seen: tuple[float, float]
    chosen: tuple[float, float]
    scale: Annotated[float, Field(gt=0)]
    zero_point: int


class MethodScore(Frozen):
    """How well a calibration method did with every layer quantised: the logits of the selection images."""

    method: Method
    sqnr_db: float
    agreement: Points


class QuantizationReport(Frozen):
    """`quantization.json`: the methods tried, every layer in the order of the graph, every quantised tensor."""

    schema_version: Literal[1] = 1
    kind: Literal["quantization-report"] = "quantization-report"
    name: str
    methods: tuple[MethodScore, ...]
    layers: tuple[LayerSensitivity, ...]
    tensors: tuple[TensorRange, ...]
    # Of the logits of the selection images, with everything quantised that is.
    sqnr_db: float
    sqnr_db_without_bias_correction: float
