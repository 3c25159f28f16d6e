"""Load serialized engines of TensorRT, and bind them to device memory and a stream.

Runtime, engine and execution contexts belong to the device that is current when they are made. An execution context
serves one stream and one request at a time, so every binding has its own (docs.nvidia.com/deeplearning/tensorrt,
"Thread Safety").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.schemas import TensorSpec
from parnet_deploy.engines.base import StageSpec
from parnet_deploy.engines.tensorrt_build import DTYPES
from parnet_deploy.engines.tensorrt_cache import RuntimeCacheFile
from parnet_deploy.engines.tensorrt_errors import collected_errors, logger, tensorrt_failure
from parnet_deploy.engines.tensorrt_flavour import TensorRT
from parnet_deploy.errors import BUILD_AGAIN, EngineError


class TensorRTBoundEngine:
    """An execution context with its shapes, addresses and stream.

    What belongs to a device is held in attributes only: a local variable would be kept alive by the traceback of an
    error, and given up when another device is current.
    """

    def __init__(
        self, tensorrt: TensorRT, context: Any, spec: StageSpec, addresses: Mapping[str, int], batch: int, stream: int
    ) -> None:
        self._tensorrt = tensorrt
        self._context = context
        self._spec = spec
        self._stream = stream
        with collected_errors(tensorrt.module) as messages:
            if context is None:
                raise tensorrt_failure(tensorrt, spec, "make an execution context for", messages)
            if not self._bind(addresses, batch):
                self.close()
                del context
                raise tensorrt_failure(tensorrt, spec, f"take batch {batch} of", messages)

    def _bind(self, addresses: Mapping[str, int], batch: int) -> bool:
        spec = self._spec
        return (
            self._context.set_optimization_profile_async(0, self._stream)
            and all(self._context.set_input_shape(name, (batch, *t.shape)) for name, t in spec.inputs.items())
            and all(self._context.set_tensor_address(name, addresses[name]) for name in spec.tensors)
            # The names of tensors whose shapes are still open.
            and not self._context.infer_shapes()
        )

    def enqueue(self) -> None:
        """Enqueue the stage on its stream."""
        with collected_errors(self._tensorrt.module) as messages:
            if not self._context.execute_async_v3(self._stream):
                raise tensorrt_failure(self._tensorrt, self._spec, "enqueue", messages)

    def close(self) -> None:
        """Give up the execution context and its scratch memory."""
        self._context = None


class TensorRTEngine:
    """A deserialized engine; its weights are on the device that was current."""

    def __init__(
        self,
        tensorrt: TensorRT,
        engine_path: Path,
        spec: StageSpec,
        *,
        host_code: bool = False,
        kernels: RuntimeCacheFile | None = None,
    ) -> None:
        """Deserialize an engine file.

        `host_code` lets the file bring code of its own for this machine's processor, which version-compatible engines
        need. `kernels` keeps what TensorRT for RTX compiles for this GPU when an engine is first run.

        Raises:
            EngineError: TensorRT refuses the file, or its tensors are not the stage's.
        """
        self._tensorrt = tensorrt
        self._spec = spec
        self._kernels = kernels
        self._runtime: Any = None
        self._engine: Any = None
        self._runtime_config: Any = None
        self._runtime_cache: Any = None
        try:
            self._load(engine_path, host_code=host_code)
            _check_tensors(tensorrt.module, self._engine, spec, engine_path)
            if tensorrt.flavour == "rtx":
                self._configure_rtx()
        except BaseException:
            self._release()
            raise

    def _load(self, engine_path: Path, *, host_code: bool) -> None:
        trt = self._tensorrt.module
        with collected_errors(trt) as messages:
            try:
                self._runtime = trt.Runtime(logger(trt))
            except TypeError as error:
                reasons = messages or [str(error)]
                raise tensorrt_failure(self._tensorrt, self._spec, "make a runtime for", reasons) from error
            if host_code:
                self._runtime.engine_host_code_allowed = True
            self._engine = self._runtime.deserialize_cuda_engine(engine_path.read_bytes())
            if self._engine is None:
                remedy = f"{BUILD_AGAIN} --backend tensorrt"
                raise tensorrt_failure(self._tensorrt, self._spec, "load", messages, engine_path, remedy)

    def _configure_rtx(self) -> None:
        """Let kernels be compiled before the first request of a batch size ends, and those of earlier runs be used."""
        trt = self._tensorrt.module
        self._runtime_config = self._engine.create_runtime_config()
        # Compiled in the background, they would come in the middle of later requests, and no graph could be captured.
        strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._runtime_config.dynamic_shapes_kernel_specialization_strategy = strategy
        if self._kernels is not None:
            self._runtime_cache = self._runtime_config.create_runtime_cache()
            earlier = self._kernels.read()
            if earlier and not self._runtime_cache.deserialize(earlier):
                self._runtime_cache.reset()
            self._runtime_config.set_runtime_cache(self._runtime_cache)

    def bind_device(self, addresses: Mapping[str, int], batch: int, stream: int) -> TensorRTBoundEngine:
        """Make an execution context for one batch size."""
        return TensorRTBoundEngine(self._tensorrt, self._create_context(), self._spec, addresses, batch, stream)

    def _create_context(self) -> Any:
        if self._runtime_config is None:
            return self._engine.create_execution_context()
        return self._engine.create_execution_context(self._runtime_config)

    def close(self) -> None:
        """Keep the kernels that were compiled, and give up the engine."""
        if self._runtime_cache is not None and self._kernels is not None:
            self._kernels.write(bytes(self._runtime_cache.serialize()))
        self._release()

    def _release(self) -> None:
        # A runtime must outlive its engines.
        self._runtime_cache = self._runtime_config = self._engine = None
        self._runtime = None


def _check_tensors(trt: Any, engine: Any, spec: StageSpec, path: Path) -> None:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    if sorted(inputs) != sorted(spec.inputs) or sorted(outputs) != sorted(spec.outputs):
        raise EngineError(
            f"stage {spec.name!r}: the engine has inputs {inputs} and outputs {outputs}, the manifest says "
            f"{list(spec.inputs)} and {list(spec.outputs)}",
            where=path,
            remedy=BUILD_AGAIN,
        )
    for name, tensor in spec.tensors.items():
        dtype, shape = engine.get_tensor_dtype(name), tuple(engine.get_tensor_shape(name))
        if DTYPES.get(dtype.name) != tensor.dtype or not _fits(shape, tensor, spec):
            raise EngineError(
                f"stage {spec.name!r}: {name!r} is {dtype.name}{list(shape)}, the manifest says "
                f"{tensor.dtype}{['N' if spec.batch.is_dynamic else spec.batch.opt, *tensor.shape]}",
                where=path,
                remedy=BUILD_AGAIN,
            )


def _fits(shape: tuple[int, ...], tensor: TensorSpec, spec: StageSpec) -> bool:
    return shape == (-1 if spec.batch.is_dynamic else spec.batch.opt, *tensor.shape)
