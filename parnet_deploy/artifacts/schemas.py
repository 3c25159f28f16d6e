"""Schemas of the four artefacts: checkpoint card, bundle, plan and report.

Shapes of tensors are per sample, without the batch axis: the batch is the first axis of every tensor and its range
is the bundle's. Sizes are in bytes, times in milliseconds.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from parnet_deploy.artifacts.fields import FileName as FileName
from parnet_deploy.artifacts.fields import FileRecord as FileRecord
from parnet_deploy.artifacts.fields import Frozen as Frozen
from parnet_deploy.artifacts.fields import Parent as Parent
from parnet_deploy.artifacts.fields import Positive as Positive
from parnet_deploy.artifacts.fields import Sha256 as Sha256
from parnet_deploy.artifacts.fields import StageName as StageName
from parnet_deploy.artifacts.limits import MAX_BATCH, MAX_SIDE, MAX_THREADS, MAX_WIDTH
from parnet_deploy.artifacts.quantization import Quantization

SCHEMA_VERSION: Final = 1

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Dtype = Literal["float32", "float16", "int8", "uint8"]
Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
Depth = Annotated[int, Field(gt=0, le=1000)]
BatchSize = Annotated[int, Field(gt=0, le=MAX_BATCH)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]


class Preprocessing(Frozen):
    """How an image becomes the network's input: timm's evaluation transform.

    The short side is resized to `floor(size / crop_pct)`, the centre is cropped, then `(x / 255 - mean) / std`.
    """

    input_size: tuple[Positive, Side, Side] = (3, 224, 224)
    mean: tuple[Finite, Finite, Finite] = (0.485, 0.456, 0.406)
    std: tuple[Scale, Scale, Scale] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    crop_pct: Annotated[float, Field(ge=0.01, le=1)] = 0.875


class NetworkConfig(Frozen):
    """Everything that fixes a ParNet's graph; section 3 and table A1 of the paper.

    `stem` holds the widths of the blocks up to the first stream, `stem_stride` is 2 for Downsampling blocks (ImageNet)
    and 1 for RepVGG-SSE blocks (CIFAR form, section 3.3). Stream i+1 has `planes[i]` channels, `num_blocks[i]` blocks
    and half the resolution of stream i. `last` is the block before the pool: a Downsampling block, or a 1x1
    convolution in the CIFAR form.
    """

    stem: Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
    stem_stride: Literal[1, 2] = 2
    planes: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)]
    num_blocks: Annotated[tuple[Depth, ...], Field(min_length=1, max_length=4)]
    last_planes: Width
    last: Literal["downsampling", "conv1x1"] = "downsampling"
    activation: Literal["silu", "relu"] = "silu"
    in_chans: Width = 3
    num_classes: Width = 1000
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.planes) != len(self.num_blocks):
            raise ValueError("planes and num_blocks must have one entry per stream")
        if self.stem[-1] != self.planes[0]:
            raise ValueError("the last stem width must be the first stream's width")
        # The second Fusion input of a two-group block is shuffled, so each group must split in two again.
        if len(self.planes) > 1 and any(width % 4 for width in self.planes[1:]):
            raise ValueError("stream widths from the second on must be multiples of 4 (two groups, shuffled)")
        if len(self.planes) > 2 and self.planes[0] % 2:
            raise ValueError("stream widths must be even")
        return self

    @property
    def num_streams(self) -> int:
        """Number of parallel streams, 1 to 4."""
        return len(self.planes)

    @property
    def reduction(self) -> int:
        """Input pixels per output pixel along one side; input sizes must be multiples of it."""
        halvings = (len(self.stem) if self.stem_stride == 2 else 0) + len(self.planes) - 1
        return int(2 ** (halvings + (self.last == "downsampling")))

    @property
    def depth(self) -> int:
        """Length of the longest path from the image to the logits, in convolution and linear layers."""
        first = len(self.stem)
        joined = 0
        for index, blocks in enumerate(self.num_blocks):
            own = first + index + blocks
            joined = own + (self.num_streams > 1) if index == 0 else max(own, joined) + 1
        return joined + 2


class Card(Frozen):
    """Beside `NAME.safetensors`: what the weights are, how images are prepared and how the checkpoint was made."""

    schema_version: Literal[1] = SCHEMA_VERSION
    kind: Literal["checkpoint"] = "checkpoint"
    architecture: str
    network: NetworkConfig
    form: Literal["training", "fused"]
    preprocessing: Preprocessing = Preprocessing()
    label_names: tuple[str, ...] | None = None
    weights: FileRecord
    parent: Parent | None = None
    metrics: dict[str, Finite] = {}
    origin: dict[str, Any] = {}

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        _check_labels(self.label_names, self.network.num_classes)
        _check_channels(self.preprocessing, self.network)
        return self


def _check_labels(label_names: tuple[str, ...] | None, num_classes: int) -> None:
    if label_names is not None and len(label_names) != num_classes:
        raise ValueError(f"{len(label_names)} label names for {num_classes} classes")


def _check_channels(preprocessing: Preprocessing, network: NetworkConfig) -> None:
    if preprocessing.input_size[0] != network.in_chans:
        raise ValueError(f"images of {preprocessing.input_size[0]} channels for a network of {network.in_chans}")


class BatchRange(Frozen):
    """Batch sizes that a bundle or plan takes; a fixed batch has three equal numbers."""

    min: BatchSize = 1
    opt: BatchSize = 1
    max: BatchSize = 1

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError("batch sizes must satisfy MIN <= OPT <= MAX")
        return self

    @property
    def is_dynamic(self) -> bool:
        """Whether more than one batch size is taken."""
        return self.min != self.max


_BYTES: dict[Dtype, int] = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}


class TensorSpec(Frozen):
    """A tensor that crosses a stage boundary; `shape` is per sample, without the batch axis.

    Integers q stand for `scale * (q - zero_point)`.
    """

    dtype: Dtype
    shape: tuple[Positive, ...]
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    zero_point: Annotated[int, Field(ge=-128, le=255)] = 0

    @model_validator(mode="after")
    def _scaled(self) -> Self:
        if (self.scale is not None) != (self.dtype in ("int8", "uint8")):
            raise ValueError("a tensor of integers, and no other, has a scale")
        return self

    @property
    def size_bytes(self) -> int:
        """Bytes of one sample."""
        size = _BYTES[self.dtype]
        for extent in self.shape:
            size *= extent
        return size


class Stage(Frozen):
    """A sub-graph between named tensors: the unit that is placed, built and launched."""

    name: StageName
    inputs: Annotated[tuple[str, ...], Field(min_length=1)]
    outputs: Annotated[tuple[str, ...], Field(min_length=1)]


class BundleStage(Stage):
    """A stage with its ONNX file.

    `gflop` counts two operations per multiply-accumulate of convolutions and linear layers, for one sample; a bundle of
    an older version does not say.
    """

    file: FileRecord
    node_counts: dict[str, int] = {}
    gflop: Annotated[float, Field(ge=0)] | None = None


class Parity(Frozen):
    """Largest difference between two sets of numbers; `relative` is max|a-b| / max|a|."""

    max_abs: float
    relative: float


class Graph(Frozen):
    """What a bundle and the plan made from it share: the network's identity and the tensors between stages."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    parent: Parent
    form: Literal["training", "fused"]
    network: NetworkConfig
    precision: Precision
    partition: str
    batch: BatchRange
    preprocessing: Preprocessing
    label_names: tuple[str, ...] | None = None
    input: str = "image"
    output: str = "logits"
    tensors: dict[str, TensorSpec]

    @model_validator(mode="after")
    def _graph_fits(self) -> Self:
        _check_labels(self.label_names, self.network.num_classes)
        _check_channels(self.preprocessing, self.network)
        for name in (self.input, self.output):
            if name not in self.tensors:
                raise ValueError(f"tensor {name!r} is not described")
        if len(self.tensors[self.input].shape) != 3 or self.tensors[self.output].shape != (self.network.num_classes,):
            raise ValueError("the input must be an image and the output one number per class")
        if self.tensors[self.input].shape != self.preprocessing.input_size:
            raise ValueError("the input must have the size that images are prepared to")
        return self


def check_stages(stages: tuple[Stage, ...], graph: Graph) -> None:
    """Check that stages form a DAG in topological order from the input to the output.

    Raises:
        ValueError: a tensor that is unknown, made twice or used before it is made, or a repeated stage name.
    """
    ready = {graph.input}
    names: set[str] = set()
    for stage in stages:
        if stage.name in names:
            raise ValueError(f"stage {stage.name!r} appears twice")
        names.add(stage.name)
        for tensor in (*stage.inputs, *stage.outputs):
            if tensor not in graph.tensors:
                raise ValueError(f"stage {stage.name!r}: tensor {tensor!r} is not described")
        for tensor in stage.inputs:
            if tensor not in ready:
                raise ValueError(f"stage {stage.name!r} needs {tensor!r} before it is made")
        for tensor in stage.outputs:
            if tensor in ready:
                raise ValueError(f"tensor {tensor!r} is made twice")
            ready.add(tensor)
    if graph.output not in ready:
        raise ValueError(f"no stage makes {graph.output!r}")


class Bundle(Graph):
    """`bundle.json`: one or several ONNX files as a DAG of stages, in topological order."""

    kind: Literal["bundle"] = "bundle"
    stages: Annotated[tuple[BundleStage, ...], Field(min_length=1)]
    float32_islands: tuple[str, ...] = ()
    quantization: Quantization | None = None
    parity: dict[str, Parity] = {}
    tools: dict[str, str] = {}

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        check_stages(self.stages, self)
        if (self.quantization is not None) != (self.precision in ("int8", "fp8")):
            raise ValueError("a bundle in int8 or fp8, and no other, says how it was quantised")
        return self


class Lane(Frozen):
    """An in-order queue of commands on one device: a worker thread of the CPU, or a CUDA stream of a GPU."""

    device: Annotated[str, StringConstraints(pattern=r"^(cpu|cuda:[0-9]+)$")]
    stream: Annotated[int, Field(ge=0)] = 0

    def __str__(self) -> str:
        return f"{self.device}/{self.stream}"


class Launch(Frozen):
    """Run a stage on its lane."""

    op: Literal["launch"] = "launch"
    lane: Lane
    stage: StageName


class Copy(Frozen):
    """Move a tensor between devices, enqueued on `lane`; `cpu` is the host's memory."""

    op: Literal["copy"] = "copy"
    lane: Lane
    tensor: str
    source: str
    target: str


class Record(Frozen):
    """Mark the point on `lane` that a later `Wait` for `event` is satisfied by."""

    op: Literal["record"] = "record"
    lane: Lane
    event: str


class Wait(Frozen):
    """Hold `lane` until `event` was recorded."""

    op: Literal["wait"] = "wait"
    lane: Lane
    event: str


Command = Annotated[Launch | Copy | Record | Wait, Field(discriminator="op")]


class DeviceRecord(Frozen):
    """The hardware that engines were built for; a plan is refused elsewhere."""

    device: str
    name: str
    capability: str


class EngineRecord(Frozen):
    """The engine of one stage; `layers` counts what it was built from by type, where the backend tells.

    `weights` is a second file, for backends that map weights into memory where they lie. `cores` are the logical cores
    of this machine that the stage's threads are kept on; by default the system places them.
    """

    stage: StageName
    file: FileRecord
    weights: FileRecord | None = None
    threads: Annotated[int, Field(gt=0, le=MAX_THREADS)] = 1
    cores: tuple[Annotated[int, Field(ge=0)], ...] = ()
    layers: dict[str, int] = {}

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All files of the engine."""
        return (self.file,) if self.weights is None else (self.file, self.weights)

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum(file.size_bytes for file in self.files)


class TuningSummary(Frozen):
    """That a plan was chosen by measurement: how many candidates were tried, and the record of all of them.

    `latency_ms` is the median of a request of the batch that the plan is best at.
    """

    record: FileRecord
    chosen: str
    tried: Positive
    latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Plan(Graph):
    """`plan.json`: engines for the stages of a bundle, where they run, and the commands that run them."""

    kind: Literal["plan"] = "plan"
    backend: str
    backend_version: str
    build_options: dict[str, str | int | float | bool] = {}
    devices: Annotated[tuple[DeviceRecord, ...], Field(min_length=1)]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    engines: tuple[EngineRecord, ...]
    placement: dict[StageName, Lane]
    schedule: tuple[Command, ...]
    tuning: TuningSummary | None = None

    @model_validator(mode="after")
    def _plan_fits(self) -> Self:
        check_stages(self.stages, self)
        names = [stage.name for stage in self.stages]
        if [engine.stage for engine in self.engines] != names or sorted(self.placement) != sorted(names):
            raise ValueError("engines and placement must cover every stage, engines in the stages' order")
        return self
