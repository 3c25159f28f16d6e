"""ONNX Runtime's CUDA provider: engines for GPUs where TensorRT is not installed.

An engine is the stage's ONNX file. Its graph is optimised for the provider whenever a session is opened, which adds
milliseconds (51 ms against 44 for ParNet-S on the processor). A graph saved after that could be opened with this
version's CUDA provider only, so not even be checked without a GPU, and would save no more than this.

The provider works on a stream that is given to it when a session is opened: there is no way to give one to a run from
Python (1.32). So there is a session for each stream, with weights of its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import onnx
import onnxruntime

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.engines.base import Report, StageSpec
from parnet_deploy.engines.gpus import DEVICE_SETUP, current_gpu, device_ordinal, gpu_lanes, gpu_records
from parnet_deploy.engines.onnxruntime import failure, open_session, quiet_run_options
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.errors import BUILD_AGAIN, EXPORT_AGAIN, MissingDependencyError

_PROVIDER = "CUDAExecutionProvider"
_INSTALL = "pip uninstall onnxruntime, then pip install 'parnet-deploy[onnxruntime-gpu]': they overwrite each other"
_LIBRARIES = "ONNX Runtime says on stderr what it misses: the NVIDIA driver, or CUDA and cuDNN of its own major version"
# The first run chooses algorithms and allocates, and the second may allocate again: ONNX Runtime's own graphs are not
# captured before the third either.
_WARM_UP_RUNS = 2


def _session_options() -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # The processor only enqueues.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # What the provider cannot run would run on the processor without a word.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _provider_options(device: int, stream: int | None, *, tf32: bool) -> dict[str, str]:
    return {
        "device_id": str(device),
        **({} if stream is None else {"user_compute_stream": str(stream)}),
        "use_tf32": str(int(tf32)),
        # By cuDNN's heuristics, which answer alike each time; the default times algorithms, and takes seconds for it.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default takes memory in powers of two, up to twice what is needed.
        "arena_extend_strategy": "kSameAsRequested",
    }


class OnnxRuntimeCudaBoundEngine:
    """A session with an IOBinding onto device memory."""

    def __init__(self, engine: OnnxRuntimeCudaEngine, session: Any, binding: Any, spec: StageSpec, stream: int) -> None:
        self._engine = engine
        self._session = session
        self._binding = binding
        self._spec = spec
        self._stream = stream
        self._options = quiet_run_options()
        # Otherwise a run waits for its stream.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self) -> None:
        """Enqueue the stage's kernels on its stream, without the GIL."""
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:
            raise failure(self._spec, "enqueue", error) from error

    def close(self) -> None:
        """Give up the binding, and the session if it was the last one on the stream."""
        self._session = self._binding = None
        self._engine.release(self._stream)


@dataclass
class _StreamSession:
    """A session on one stream, and how many bound engines use it."""

    session: Any
    users: int = 0


class OnnxRuntimeCudaEngine:
    """A stage's file, and a session for each stream that it is bound to.

    A session is opened when a stream is first bound and given up with its last bound engine, so the weights are on the
    device once for each pipeline that is open (a stage has one stream in each), and not at all before the first
    request. Opening one reads the file and waits for the device.
    """

    def __init__(self, engine_path: Path, spec: StageSpec, *, tf32: bool) -> None:
        self._path = engine_path
        self._spec = spec
        self._tf32 = tf32
        self._device = device_ordinal(spec.lane.device)
        self._sessions: dict[int, _StreamSession] = {}
        # On the processor and dropped again: whether it is the stage's file, before there is a stream to load it for.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        open_session(engine_path, options, spec, "load", BUILD_AGAIN)

    def bind_device(self, addresses: Mapping[str, int], batch: int, stream: int) -> OnnxRuntimeCudaBoundEngine:
        """Bind addresses, and run the stage on them, whatever they hold, until nothing more is allocated.

        Afterwards the outputs hold what the memory of the inputs gave.
        """
        entry = self._sessions.get(stream) or self._open(stream)
        entry.users += 1
        try:
            bound = self._bind(entry.session, addresses, batch, stream)
            for _ in range(_WARM_UP_RUNS):
                bound.enqueue()
        except BaseException:
            self.release(stream)
            raise
        return bound

    def _open(self, stream: int) -> _StreamSession:
        provider = _PROVIDER, _provider_options(self._device, stream, tf32=self._tf32)
        session = open_session(
            self._path, _session_options(), self._spec, "load", BUILD_AGAIN, provider, remedy=_LIBRARIES
        )
        self._sessions[stream] = _StreamSession(session)
        return self._sessions[stream]

    def _bind(self, session: Any, addresses: Mapping[str, int], batch: int, stream: int) -> OnnxRuntimeCudaBoundEngine:
        binding = session.io_binding()
        try:
            for name, tensor in self._spec.tensors.items():
                bind = binding.bind_input if name in self._spec.inputs else binding.bind_output
                bind(name, "cuda", self._device, np.dtype(tensor.dtype), (batch, *tensor.shape), addresses[name])
        except Exception as error:
            raise failure(self._spec, f"bind batch {batch} of", error) from error
        return OnnxRuntimeCudaBoundEngine(self, session, binding, self._spec, stream)

    def release(self, stream: int) -> None:
        """Count a bound engine of a stream less, and give the session up if it was the last."""
        entry = self._sessions[stream]
        entry.users -= 1
        if entry.users == 0:
            del self._sessions[stream]

    def close(self) -> None:
        """Nothing is left to give up: sessions go with their bound engines."""


class OnnxRuntimeCudaBackend:
    """Engines that are ONNX files, run by ONNX Runtime's CUDA provider."""

    name = "onnxruntime-cuda"
    suffix = ".onnx"

    def __init__(self, options: BuildOptions | None = None) -> None:
        """Load the provider's libraries.

        Raises:
            MissingDependencyError: the ONNX Runtime that is installed is the one for processors.
        """
        self._options = options or BuildOptions()
        if _PROVIDER not in onnxruntime.get_available_providers():
            raise MissingDependencyError(
                f"the ONNX Runtime that is installed ({self.version()}) has no CUDA provider", remedy=_INSTALL
            )
        # Those of NVIDIA's Python packages, which the dynamic loader does not find. It prints what it does not find.
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()

    def version(self) -> str:
        """Return ONNX Runtime's version."""
        return str(onnxruntime.__version__)

    def runs(self, version: str) -> bool:
        """Tell whether engines of a version run here: only its own."""
        return version == self.version()

    def lanes(self, count: int) -> tuple[Lane, ...]:
        """Return one lane on each device that was named, or as many streams of the first GPU as there are stages."""
        return gpu_lanes(self._options.devices, count)

    def device_records(self, devices: Sequence[str]) -> tuple[DeviceRecord, ...]:
        """Describe GPUs; raise `EngineError` for one that is not there, or of another kind than the others."""
        return gpu_records(devices)

    def build(
        self,
        onnx_path: Path,
        spec: StageSpec,
        engine_path: Path,
        *,
        report: Report | None = None,  # noqa: ARG002
    ) -> Mapping[str, int]:
        """Copy the stage's file, once the provider has taken all of it; return how many operators of each type."""
        device = device_ordinal(spec.lane.device)
        provider = _PROVIDER, _provider_options(device, None, tf32=self._options.tf32)
        with DEVICE_SETUP, current_gpu(device):
            open_session(onnx_path, _session_options(), spec, "optimise", EXPORT_AGAIN, provider, remedy=_LIBRARIES)
        copyfile(onnx_path, engine_path)
        nodes = onnx.load(onnx_path, load_external_data=False).graph.node
        return Counter(node.op_type for node in nodes)

    def load(self, engine_path: Path, spec: StageSpec) -> OnnxRuntimeCudaEngine:
        """Check the file; it is loaded onto the device when a stream is bound."""
        return OnnxRuntimeCudaEngine(engine_path, spec, tf32=self._options.tf32)
