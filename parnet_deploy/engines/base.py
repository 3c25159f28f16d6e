"""What a backend is: it builds the engine of a stage into a file, loads it, and binds it to memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.schemas import BatchRange, DeviceRecord, Graph, Lane, Precision, Stage, TensorSpec
from parnet_deploy.errors import EXPORT_AGAIN, EngineError

# float32, float16 or 8-bit integers, as the tensor's specification says.
Array = NDArray[Any]

# The remedy for a graph that a backend cannot translate.
FOREIGN_GRAPH = f"{EXPORT_AGAIN}; or choose another --backend"

# Told what a build is doing; answers whether to go on.
Report = Callable[[str], bool]


@dataclass(frozen=True)
class StageSpec:
    """What a backend has to know of a stage; `is_alone` if it is the only stage of its plan.

    `cores` are what its threads are to be kept on, as far as the backend can; there are as many as threads, or none.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batch: BatchRange
    lane: Lane
    threads: int
    is_alone: bool
    cores: tuple[int, ...] = ()
    precision: Precision = "fp32"

    @property
    def tensors(self) -> dict[str, TensorSpec]:
        """All tensors of the stage."""
        return {**self.inputs, **self.outputs}


def weights_path(engine_path: Path) -> Path:
    """Return where an engine's weights are, for backends that map them into memory instead of reading them."""
    return engine_path.with_name(f"{engine_path.name}.weights")


def stage_spec(
    stage: Stage, graph: Graph, lane: Lane, threads: int, *, is_alone: bool, cores: tuple[int, ...] = ()
) -> StageSpec:
    """Collect from the graph what belongs to one stage."""
    return StageSpec(
        name=stage.name,
        inputs={name: graph.tensors[name] for name in stage.inputs},
        outputs={name: graph.tensors[name] for name in stage.outputs},
        batch=graph.batch,
        lane=lane,
        threads=threads,
        is_alone=is_alone,
        cores=cores,
        precision=graph.precision,
    )


class BoundEngine(Protocol):
    """An engine with fixed memory for its inputs and outputs."""

    def run(self) -> None:
        """Read the inputs, write the outputs; raise `EngineError` naming the stage if that fails."""


class Engine(Protocol):
    """A loaded engine; several bound engines of it may run at the same time."""

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> BoundEngine:
        """Bind arrays of one batch size; they are used in place, and kept alive by the bound engine."""

    def close(self) -> None:
        """Give up the engine's memory and threads, once no bound engine is left."""


class BoundDeviceEngine(Protocol):
    """An engine with fixed device memory for its inputs and outputs, a stream, and an execution context of its own."""

    def enqueue(self) -> None:
        """Enqueue the stage on its stream, whose context is current, and do not wait for it.

        Raises:
            EngineError: naming the stage, if it cannot be enqueued.
        """

    def close(self) -> None:
        """Give up the execution context, once nothing that was enqueued is left to run."""


class DeviceEngine(Protocol):
    """A loaded engine whose tensors are in the memory of a CUDA device.

    It is loaded, bound and closed, and its bound engines closed, with the device's context current and
    `gpus.DEVICE_SETUP` held; several bound engines of it may run at a time.
    """

    def bind_device(self, addresses: Mapping[str, int], batch: int, stream: int) -> BoundDeviceEngine:
        """Bind a CUDA stream, and the addresses of all inputs and outputs, C-contiguous with `batch` samples each.

        Memory and stream belong to the caller, who keeps them until the bound engine is closed. No two requests are
        enqueued on bound engines of one stream at the same time. An engine may run on the memory while it is bound, to
        set itself up: afterwards outputs hold anything.

        Raises:
            EngineError: naming the stage, if there is no memory for an execution context or the batch does not fit.
        """

    def close(self) -> None:
        """Give up the engine's memory, once no bound engine is left."""


class Backend(Protocol):
    """A way to build and run engines."""

    name: str
    suffix: str

    def version(self) -> str:
        """Return the version that engines are tied to."""

    def runs(self, version: str) -> bool:
        """Tell whether engines that were built by a version can be loaded by this one."""

    def lanes(self, count: int) -> tuple[Lane, ...]:
        """Return the lanes that `count` stages may be placed on, those to prefer first."""

    def device_records(self, devices: Sequence[str]) -> tuple[DeviceRecord, ...]:
        """Describe devices of this machine; an engine runs where the capability is the one it was built for."""

    def build(
        self, onnx_path: Path, spec: StageSpec, engine_path: Path, *, report: Report | None = None
    ) -> Mapping[str, int]:
        """Write the engine of a stage and return how many layers of each type went in, where the backend tells.

        The weights may go to a file of their own, at `weights_path(engine_path)`. Stages of different devices are built
        at the same time; a backend whose builds are long calls `report` while it builds. Raises `EngineError` naming
        the stage if it fails or is told to stop.
        """

    def load(self, engine_path: Path, spec: StageSpec) -> Engine | DeviceEngine:
        """Load an engine for the lane of `spec`: an `Engine` on the processor, a `DeviceEngine` on a GPU.

        Raises:
            EngineError: naming the stage, if the file is not such an engine.
        """


def cpu_only(backend: str, device: str) -> EngineError:
    """Return the error for a backend of the processor that is asked to run elsewhere."""
    return EngineError(
        f"backend {backend!r} runs on the cpu, not on {device}",
        remedy="place its stages on the cpu, or build with a backend of GPUs (tensorrt, onnxruntime-cuda, torch)",
    )


def check_binding(spec: StageSpec, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
    """Check arrays before their addresses are handed to native code.

    Raises:
        EngineError: names, dtypes or shapes that are not the stage's, arrays that are not contiguous, or batch sizes
            that differ or are out of range.
    """
    if inputs.keys() != spec.inputs.keys() or outputs.keys() != spec.outputs.keys():
        raise EngineError(f"stage {spec.name!r} is bound to other tensors than its own")
    arrays = {**inputs, **outputs}
    batches = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(batches) != 1 or not spec.batch.min <= min(batches) <= spec.batch.max:
        raise EngineError(f"stage {spec.name!r} is bound to batch sizes {sorted(batches)}")
    for name, tensor in spec.tensors.items():
        array = arrays[name]
        if array.dtype != np.dtype(tensor.dtype) or array.shape[1:] != tensor.shape or not array.flags.c_contiguous:
            raise EngineError(f"stage {spec.name!r}: the array for {name!r} is not {tensor.dtype}[N, {tensor.shape}]")
