"""What the tool uses of TensorRT, on a CUDA driver in host memory: engines are ONNX files that ONNX Runtime runs.

It stands in for `tensorrt` where the tool's own code is run from end to end: builder, plan, session, executor. As in
TensorRT, an engine and its contexts belong to the device that was current when they were made, failures are null or
false with a message to the logger, a tensor needs an address, and a context takes one request at a time. Where the real
library would misbehave in silence (another device current, two requests at once), this one raises `AssertionError`.
`tests/engines/test_tensorrt_bindings.py` compares its names with the real bindings.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnx
import onnxruntime
from cuda.bindings import driver as cuda

__version__ = "10.13.3.9"

_MAGIC = b"host engine\n"
_ELEMENT_TYPES = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF"}


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class BuilderFlag(IntEnum):
    TF32 = 0
    REFIT = 1
    VERSION_COMPATIBLE = 2


class NetworkDefinitionCreationFlag(IntEnum):
    STRONGLY_TYPED = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class HardwareCompatibilityLevel(IntEnum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class ProfilingVerbosity(IntEnum):
    DETAILED = 2


class LayerType(IntEnum):
    CONVOLUTION = 0
    ELEMENTWISE = 1


class ILogger:
    INTERNAL_ERROR, ERROR = 0, 1

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    pass


def current_device() -> int:
    """Ask the host-memory driver, past what tests make its calls answer."""
    device: int = ctypes.CDLL("libcuda.so.1").cudasim_current_device()
    return device


class ITensor:
    def __init__(self, value: Any) -> None:
        self.name: str = value.name
        self.dtype = DataType[_ELEMENT_TYPES[value.type.tensor_type.elem_type]]
        self.shape = tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)


class ILayer:
    def __init__(self, node: Any) -> None:
        self.type = LayerType.CONVOLUTION if node.op_type == "Conv" else LayerType.ELEMENTWISE


class INetworkDefinition:
    data = b""
    graph: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self.graph.input)

    @property
    def num_outputs(self) -> int:
        return len(self.graph.output)

    @property
    def num_layers(self) -> int:
        return len(self.graph.node)

    def get_input(self, index: int) -> ITensor:
        return ITensor(self.graph.input[index])

    def get_output(self, index: int) -> ITensor:
        return ITensor(self.graph.output[index])

    def get_layer(self, index: int) -> ILayer:
        return ILayer(self.graph.node[index])


class OnnxParser:
    num_errors = 0

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:  # noqa: ARG002
        self.network = network

    def parse_from_file(self, path: str) -> bool:
        self.network.data = Path(path).read_bytes()
        self.network.graph = onnx.load_model_from_string(self.network.data).graph
        return True


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]) -> None:
        self.shapes[input] = (min, opt, max)


class IBuilderConfig:
    def __init__(self) -> None:
        self.progress_monitor: Any = None

    def clear_flag(self, flag: BuilderFlag) -> None:
        pass

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        assert profile.shapes
        return 0


class Builder:
    def __init__(self, logger: ILogger) -> None:  # noqa: ARG002
        self.device = current_device()
        assert self.device >= 0

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes:
        assert current_device() == self.device
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        assert all(monitor.step_complete("Building", step) for step in range(2))
        monitor.phase_finish("Building")
        return _MAGIC + network.data


# How many engines and contexts are alive; a session that is closed leaves none.
alive: Counter[str] = Counter()
# What was given up while another device than its own was current.
misplaced: list[str] = []


def give_up(kind: str, device: int) -> None:
    alive[kind] -= 1
    if current_device() != device:
        misplaced.append(f"one of the {kind} of device {device} with {current_device()} current")


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        self.device = current_device()
        assert self.device >= 0

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        assert current_device() == self.device
        if not serialized_engine.startswith(_MAGIC):
            self.logger.log(ILogger.ERROR, "Serialization assertion magicTag failed.")
            return None
        return ICudaEngine(serialized_engine.removeprefix(_MAGIC), self)


class ICudaEngine:
    def __init__(self, data: bytes, runtime: Runtime) -> None:
        self.runtime = runtime
        graph = onnx.load_model_from_string(data).graph
        self.tensors = {tensor.name: tensor for tensor in map(ITensor, (*graph.input, *graph.output))}
        self.inputs = {value.name for value in graph.input}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Every node alike in the whole network and in its parts: fused across a cut, the last bit may differ.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        alive["engines"] += 1

    def __del__(self) -> None:
        give_up("engines", self.runtime.device)

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def create_execution_context(self) -> IExecutionContext:
        assert current_device() == self.runtime.device
        return IExecutionContext(self)


class IExecutionContext:
    # Set by tests: what an engine that waits inside its enqueue does, so that no graph can be captured.
    synchronizes = False
    # Set by tests: the name of a stage's output whose engine cannot be enqueued.
    failing: str | None = None

    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.profile: int | None = None
        self.call: Any = None
        alive["contexts"] += 1

    def __del__(self) -> None:
        give_up("contexts", self.engine.runtime.device)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle
        self.profile = profile_index
        return profile_index == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        declared = self.engine.tensors[name].shape
        fits = len(shape) == len(declared) and all(b in (-1, a) for a, b in zip(shape, declared, strict=True))
        if not fits:
            self.engine.runtime.logger.log(ILogger.ERROR, f"{name}: {shape} is not in the profile")
        self.shapes[name] = shape
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory
        self.addresses[name] = memory
        return name in self.engine.tensors

    def infer_shapes(self) -> list[str]:
        return sorted(self.engine.inputs - self.shapes.keys())

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert current_device() == self.engine.runtime.device
        assert self.addresses.keys() == self.engine.tensors.keys()
        assert self.profile == 0
        if self.failing in self.addresses:
            self.engine.runtime.logger.log(ILogger.ERROR, "told to fail")
            return False
        if self.call is None:
            self.call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._bind())
        if self.synchronizes:
            (status,) = cuda.cuStreamSynchronize(stream_handle)
            if status != cuda.CUresult.CUDA_SUCCESS:
                self.engine.runtime.logger.log(ILogger.ERROR, f"cuStreamSynchronize: {status.name}")
                return False
        address = ctypes.cast(self.call, ctypes.c_void_p).value
        (status,) = cuda.cuLaunchHostFunc(stream_handle, cuda.CUhostFn(address), 0)
        if status != cuda.CUresult.CUDA_SUCCESS:
            self.engine.runtime.logger.log(ILogger.ERROR, f"cuLaunchHostFunc: {status.name}")
        return bool(status == cuda.CUresult.CUDA_SUCCESS)

    def _bind(self) -> Callable[[Any], None]:
        """Return what a stream calls; it holds no context, so that one that is dropped goes at once."""
        batch = next(iter(self.shapes.values()))[0]
        session, busy = self.engine.session, Lock()
        binding = session.io_binding()
        for name, tensor in self.engine.tensors.items():
            bind = binding.bind_input if name in self.engine.inputs else binding.bind_output
            dtype = np.dtype("float32" if tensor.dtype is DataType.FLOAT else "float16")
            bind(name, "cpu", 0, dtype, (batch, *tensor.shape[1:]), self.addresses[name])

        def call(_: Any) -> None:
            assert busy.acquire(blocking=False), "an execution context serves two requests at once"
            try:
                session.run_with_iobinding(binding)
            finally:
                busy.release()

        return call
