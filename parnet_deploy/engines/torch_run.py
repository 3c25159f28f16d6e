"""Run a stage's module: on the processor over arrays in place, on a GPU as a CUDA graph of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from parnet_deploy.artifacts.schemas import TensorSpec
from parnet_deploy.engines.base import Array, StageSpec, check_binding
from parnet_deploy.engines.device_graphs import enqueue_graph
from parnet_deploy.engines.onnx_to_torch import TensorType, TorchGraph, torch_graph_from_onnx
from parnet_deploy.engines.torch_fusions import fuse_elementwise
from parnet_deploy.errors import BUILD_AGAIN, EngineError

# The first run chooses algorithms and allocates workspaces; in the second everything is as it stays.
_WARM_UP_RUNS = 2


def load_graph(path: Path, spec: StageSpec, again: str) -> TorchGraph:
    """Read a stage's module, with fused elementwise chains and weights in the layout that convolutions are fast in.

    That is channels last. On GPUs it is that of the tensor cores. On the processor it made no difference in float32,
    and float16 five times as fast where that has no instructions for it. What crosses the boundary stays C-contiguous.

    Raises:
        EngineError: with the remedy `again`, a file that cannot be translated, or whose tensors are not the stage's.
    """
    try:
        graph = torch_graph_from_onnx(path)
        _check_tensors(graph.inputs, spec.inputs, spec)
        _check_tensors(graph.outputs, spec.outputs, spec)
    except EngineError as error:
        raise EngineError(f"torch cannot load stage {spec.name!r}: {error.what}", where=path, remedy=again) from error
    fuse_elementwise(graph.module)
    graph.module.to(memory_format=torch.channels_last)
    return graph


def _check_tensors(found: Mapping[str, TensorType], expected: Mapping[str, TensorSpec], spec: StageSpec) -> None:
    if sorted(found) != sorted(expected):
        raise EngineError(f"it has tensors {list(found)}, the manifest says {list(expected)}")
    batch = None if spec.batch.is_dynamic else spec.batch.opt
    for name, (dtype, shape) in found.items():
        tensor = expected[name]
        if str(dtype) != f"torch.{tensor.dtype}" or shape != (batch, *tensor.shape):
            wanted = ["N" if batch is None else batch, *tensor.shape]
            raise EngineError(f"{name!r} is {dtype}{list(shape)}, the manifest says {tensor.dtype}{wanted}")


def _runner(graph: TorchGraph, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
    """Return a function that reads the inputs among `tensors` and writes the outputs."""
    inputs = [tensors[name] for name in graph.inputs]
    outputs = [tensors[name] for name in graph.outputs]

    def run() -> None:
        for output, result in zip(outputs, graph.module(*inputs), strict=True):
            if result.shape != output.shape:  # which `copy_` would broadcast
                raise RuntimeError(f"a result of shape {list(result.shape)}, not {list(output.shape)}")
            output.copy_(result)

    return run


@contextmanager
def _errors(spec: StageSpec, action: str) -> Iterator[None]:
    """Name the stage in whatever torch raises."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EngineError(f"torch cannot {action} stage {spec.name!r}: {reason}") from error


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let operators of the calling thread use `count` threads.

    torch and its libraries (OpenMP, MKL) keep the count for each calling thread, so lanes with counts of their own do
    not disturb each other, nor the caller, whose count is put back. Only a thread that uses torch for the first time
    while stages run may begin with the count of one of them.
    """
    before = torch.get_num_threads()
    if before != count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if before != count:
            torch.set_num_threads(before)


class TorchBoundEngine:
    """A module with arrays that it reads and writes in place."""

    def __init__(self, graph: TorchGraph, arrays: Mapping[str, Array], spec: StageSpec) -> None:
        self._run = _runner(graph, {name: torch.from_numpy(array) for name, array in arrays.items()})
        self._spec = spec

    def run(self) -> None:
        """Run the stage on the bound arrays, with its own number of threads."""
        with _errors(self._spec, "run"), torch.inference_mode(), _threads(self._spec.threads):
            self._run()


class TorchEngine:
    """A module on the processor; it has no state, so any number of threads may run it."""

    def __init__(self, engine_path: Path, spec: StageSpec) -> None:
        self._graph: TorchGraph | None = load_graph(engine_path, spec, BUILD_AGAIN)
        self._spec = spec

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> TorchBoundEngine:
        """Bind arrays, which are used in place."""
        check_binding(self._spec, inputs, outputs)
        assert self._graph is not None
        return TorchBoundEngine(self._graph, {**inputs, **outputs}, self._spec)

    def close(self) -> None:
        """Drop the module; its weights go with the last bound engine."""
        self._graph = None


class TorchBoundDeviceEngine:
    """A CUDA graph of the stage, between fixed addresses on one stream, in memory of its own.

    What a request enqueues is the graph, by the driver. So nothing of torch is used while a schedule is captured, and
    no two bound engines share anything that is written.
    """

    def __init__(self, run: Callable[[], None], graph: torch.cuda.CUDAGraph, spec: StageSpec, stream: int) -> None:
        self._run = run  # holds the weights and the tensors over the addresses
        self._graph: torch.cuda.CUDAGraph | None = graph
        self._handles = graph.raw_cuda_graph(), graph.raw_cuda_graph_exec()
        self._spec = spec
        self._stream = stream

    def enqueue(self) -> None:
        """Launch the graph, or make it part of what the stream is captured into."""
        try:
            enqueue_graph(*self._handles, self._stream)
        except EngineError as error:
            raise EngineError(
                f"torch cannot enqueue stage {self._spec.name!r}: {error.what}", remedy=error.remedy
            ) from error

    def close(self) -> None:
        """Give the graph and its memory back to the driver."""
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.reset()
            torch.cuda.empty_cache()


class TorchDeviceEngine:
    """A module whose weights are on a GPU; bound engines share them."""

    def __init__(self, engine_path: Path, spec: StageSpec, *, tf32: bool) -> None:
        self._spec = spec
        self._tf32 = tf32
        self._device = torch.device(spec.lane.device)
        graph = load_graph(engine_path, spec, BUILD_AGAIN)
        with _errors(spec, "load"):
            graph.module.to(self._device)
            # The streams that will read the weights do not wait for the one that they are copied on.
            torch.cuda.synchronize(self._device)
        self._graph: TorchGraph | None = graph

    def bind_device(self, addresses: Mapping[str, int], batch: int, stream: int) -> TorchBoundDeviceEngine:
        """Run the stage on its memory, whatever that holds, to set torch up, and capture it into a graph.

        This waits for the device; afterwards the outputs hold what the memory of the inputs gave.
        """
        assert self._graph is not None
        with _errors(self._spec, f"bind batch {batch} of"), torch.inference_mode():
            tensors = {
                name: _tensor_at(addresses[name], (batch, *tensor.shape), tensor.dtype, self._device)
                for name, tensor in self._spec.tensors.items()
            }
            run = _runner(self._graph, tensors)
            with torch.cuda.device(self._device), _numerics(tf32=self._tf32):
                wrapped = torch.cuda.ExternalStream(stream, device=self._device)  # type: ignore[no-untyped-call]
                graph = _capture(run, wrapped)
        return TorchBoundDeviceEngine(run, graph, self._spec, stream)

    def close(self) -> None:
        """Drop the module and give its memory back to the driver."""
        self._graph = None
        torch.cuda.empty_cache()


def _tensor_at(address: int, shape: tuple[int, ...], dtype: str, device: torch.device) -> Tensor:
    """Return device memory as a tensor (numba.readthedocs.io, "CUDA Array Interface")."""
    interface = {"data": (address, False), "shape": shape, "typestr": np.dtype(dtype).str, "version": 3}
    tensor = torch.as_tensor(SimpleNamespace(__cuda_array_interface__=interface), device=device)
    if tensor.data_ptr() != address:
        raise RuntimeError(f"the memory at {address:#x} is not on {device}")
    return tensor


def _capture(run: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """Return what `run` enqueues as an instantiated graph, with a private pool of memory.

    The capture looks at calls of this thread alone, so that requests go on elsewhere. torch allows one capture at a
    time in a process, which whoever binds sees to.
    """
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_RUNS):
            run()
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    # torch keeps a cuBLAS workspace for each stream. The graph's comes from its own pool and is forgotten afterwards,
    # so that nobody else writes to it or frees it.
    torch._C._cuda_clearCublasWorkspaces()
    try:
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()
    finally:
        torch._C._cuda_clearCublasWorkspaces()
    graph.instantiate()
    return graph


@contextmanager
def _numerics(*, tf32: bool) -> Iterator[None]:
    """Have cuDNN and cuBLAS compute float32 as such unless `tf32`, by algorithms that are the same each time.

    cuDNN's search (`benchmark`) times algorithms, and may choose others in the next process. The settings are the
    process's, so they are put back.
    """
    precision = "tf32" if tf32 else "ieee"
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = matmul.fp32_precision
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32, fp32_precision=precision):
        matmul.fp32_precision = precision
        try:
            yield
        finally:
            matmul.fp32_precision = before
