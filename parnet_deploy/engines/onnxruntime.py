"""The ONNX Runtime backend on CPU: an engine is the optimised graph, saved once and loaded without optimising again.

Weights are in a file of their own, which ONNX Runtime maps into memory: ParNet-L is open after 0.04 s instead of 0.4,
and processes that run the same plan share its weights.

The optimised graph holds fused operators and the NCHWc memory layout of the machine's vector width, so it belongs to
one version of ONNX Runtime and one processor capability (onnxruntime.ai/docs/performance/model-optimizations). In fp16
bundles ONNX Runtime computes in float32 between casts, and the saved graph holds the weights already cast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane, TensorSpec
from parnet_deploy.engines.base import FOREIGN_GRAPH, Array, Report, StageSpec, check_binding, cpu_only, weights_path
from parnet_deploy.engines.cpu import cpu_record, usable_cores
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.errors import BUILD_AGAIN, EXPORT_AGAIN, EngineError
from parnet_deploy.planning.placement import device_lanes

_PROVIDER = "CPUExecutionProvider"
_ELEMENT_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
}
# Everything that is an error is raised; ONNX Runtime would print it to stderr as well.
_FATAL_ONLY = 4
# Smaller weights stay in the graph.
_LEAST_MAPPED_BYTES = 1024


def _session_options(spec: StageSpec) -> Any:
    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = spec.threads
    options.inter_op_num_threads = 1
    # Threads that spin after their part is done save a stage some 0.4 ms when it is the only one (2.8 against 3.2 ms on
    # two cores), but take the cores from the stages that run next: two stages of two threads in turn took 11 ms
    # with spinning and 5.7 without, a stem, three streams and a join 25-30 ms and 16.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spec.is_alone else "0")
    # Where a processor has no VNNI, products of two neighbours saturate at 16 bits, and int8 networks answer otherwise
    # than everywhere else. This takes other kernels there, and changes nothing elsewhere.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if len(spec.cores) > 1 and set(spec.cores) <= set(usable_cores()):
        # The first of the threads is the caller. ONNX Runtime counts cores from 1.
        affinities = ";".join(str(core + 1) for core in spec.cores[1:])
        options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
    return options


def failure(
    spec: StageSpec, action: str, error: Exception, where: Path | None = None, remedy: str | None = None
) -> EngineError:
    """Return the error for a stage that ONNX Runtime cannot `action`, with the first line of its own."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return EngineError(f"ONNX Runtime cannot {action} stage {spec.name!r}: {reason}", where=where, remedy=remedy)


def quiet_run_options() -> Any:
    """Return options for runs whose errors are raised and not printed too."""
    options = onnxruntime.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    return options


def open_session(
    path: Path,
    options: Any,
    spec: StageSpec,
    action: str,
    again: str,
    provider: tuple[str, Mapping[str, str]] = (_PROVIDER, {}),
    *,
    remedy: str | None = None,
) -> Any:
    """Open a file with one execution provider, which is a name and options.

    `again` is how to make the file again, the remedy for one that is damaged; `remedy` is one for the provider.

    Raises:
        EngineError: ONNX Runtime refuses the file or falls back to another provider, which it does in silence, or the
            tensors are not the stage's.
    """
    options.log_severity_level = _FATAL_ONLY
    # ONNX Runtime's exceptions have no common base below Exception.
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider], enable_fallback=0)
    except Exception as error:
        raise failure(spec, action, error, path, remedy or again) from error
    found = session.get_providers()
    if found[0] != provider[0]:
        raise EngineError(f"stage {spec.name!r} runs on {found}, not on {provider[0]}", where=path, remedy=remedy)
    _check_tensors(session.get_inputs(), spec.inputs, spec, path, again)
    _check_tensors(session.get_outputs(), spec.outputs, spec, path, again)
    return session


def _check_tensors(
    found: Sequence[Any], expected: Mapping[str, TensorSpec], spec: StageSpec, path: Path, again: str
) -> None:
    """Compare a graph's inputs or outputs with the manifest's; axes without a fixed extent match any."""
    names = [value.name for value in found]
    if sorted(names) != sorted(expected):
        what = f"stage {spec.name!r} has tensors {names}, the manifest says {list(expected)}"
        raise EngineError(what, where=path, remedy=again)
    for value in found:
        tensor = expected[value.name]
        batch = spec.batch.min if not spec.batch.is_dynamic else None
        extents = zip(value.shape, (batch, *tensor.shape), strict=False)
        fits = len(value.shape) == len(tensor.shape) + 1 and all(
            not isinstance(extent, int) or extent == wanted for extent, wanted in extents
        )
        if not fits or _ELEMENT_TYPES.get(value.type) != tensor.dtype:
            raise EngineError(
                f"stage {spec.name!r}: {value.name!r} is {value.type}{value.shape}, the manifest says "
                f"{tensor.dtype}{[batch or 'N', *tensor.shape]}",
                where=path,
                remedy=again,
            )


class OnnxRuntimeBoundEngine:
    """A session with an IOBinding onto fixed arrays."""

    def __init__(self, session: Any, binding: Any, arrays: Sequence[Array], spec: StageSpec) -> None:
        self._run = session.run_with_iobinding
        self._binding = binding
        self._options = quiet_run_options()
        # The binding holds addresses only.
        self._arrays = arrays
        self._spec = spec

    def run(self) -> None:
        """Run the stage on the bound arrays, without the GIL."""
        try:
            self._run(self._binding, self._options)
        except Exception as error:
            raise failure(self._spec, "run", error) from error


class OnnxRuntimeEngine:
    """A session; ONNX Runtime lets several threads run it at the same time."""

    def __init__(self, session: Any, spec: StageSpec) -> None:
        self._session = session
        self._spec = spec

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> OnnxRuntimeBoundEngine:
        """Bind arrays by address, so that inputs are read and outputs written in place."""
        check_binding(self._spec, inputs, outputs)
        binding = self._session.io_binding()
        try:
            for name, array in inputs.items():
                binding.bind_input(name, "cpu", 0, np.dtype(array.dtype), array.shape, array.ctypes.data)
            for name, array in outputs.items():
                binding.bind_output(name, "cpu", 0, np.dtype(array.dtype), array.shape, array.ctypes.data)
        except Exception as error:
            raise failure(self._spec, "bind", error) from error
        return OnnxRuntimeBoundEngine(self._session, binding, (*inputs.values(), *outputs.values()), self._spec)

    def close(self) -> None:
        """Drop the session; its threads end with the last bound engine."""
        self._session = None


class OnnxRuntimeBackend:
    """Engines of ONNX Runtime's CPU provider."""

    name = "onnxruntime"
    suffix = ".onnx"

    def __init__(self, options: BuildOptions | None = None) -> None:
        """Take the options of any backend: there is nothing to set."""

    def version(self) -> str:
        """Return ONNX Runtime's version."""
        return str(onnxruntime.__version__)

    def runs(self, version: str) -> bool:
        """Tell whether engines of a version run here: only its own."""
        return version == self.version()

    def lanes(self, count: int) -> tuple[Lane, ...]:
        """Return a lane for every stage.

        Also where there are fewer cores: the system then shares them among unequal branches, where stages queued on
        few lanes would leave a core idle behind the shorter queue.
        """
        return device_lanes("cpu", count)

    def device_records(self, devices: Sequence[str]) -> tuple[DeviceRecord, ...]:
        """Describe the processor; raise `EngineError` for any other device."""
        for device in devices:
            if device != "cpu":
                raise cpu_only(self.name, device)
        return tuple(cpu_record() for _ in devices)

    def build(
        self,
        onnx_path: Path,
        spec: StageSpec,
        engine_path: Path,
        *,
        report: Report | None = None,  # noqa: ARG002
    ) -> Mapping[str, int]:
        """Optimise the stage's graph for this machine and save it."""
        options = _session_options(spec)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(engine_path)
        for key, value in (("file_name", weights_path(engine_path).name), ("min_size_in_bytes", _LEAST_MAPPED_BYTES)):
            options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", str(value))
        open_session(onnx_path, options, spec, "optimise", FOREIGN_GRAPH)
        return {}

    def load(self, engine_path: Path, spec: StageSpec) -> OnnxRuntimeEngine:
        """Open a saved graph as it is."""
        options = _session_options(spec)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return OnnxRuntimeEngine(open_session(engine_path, options, spec, "load", BUILD_AGAIN), spec)


def open_reference(onnx_path: Path, *, also: Sequence[str] = (), is_bfloat16: bool = False) -> Any:
    """Open an ONNX file unoptimised, on the CPU: the reading that engines are compared with.

    `also` names values inside the graph that the session shall return as well. A graph that computes in bfloat16, for
    which there are no kernels, is computed in float32 and rounded where it rounds.

    Raises:
        EngineError: ONNX Runtime cannot read the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        model = _changed(onnx_path, also, is_bfloat16=is_bfloat16) if also or is_bfloat16 else str(onnx_path)
        return onnxruntime.InferenceSession(model, options, providers=[_PROVIDER])
    except Exception as error:
        raise EngineError(
            f"ONNX Runtime cannot read the file ({error})", where=onnx_path, remedy=EXPORT_AGAIN
        ) from error


def run_reference(session: Any, names: Sequence[str], feeds: Mapping[str, Array], where: str) -> list[Array]:
    """Run what `open_reference` opened; raise `EngineError` naming the stage `where` if that fails."""
    try:
        return cast(list[Array], session.run(list(names), dict(feeds), quiet_run_options()))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise EngineError(f"ONNX Runtime cannot run stage {where!r}: {reason}", remedy=EXPORT_AGAIN) from error


def _changed(onnx_path: Path, names: Sequence[str], *, is_bfloat16: bool) -> bytes:
    import onnx

    from parnet_deploy.graphs.bfloat16 import in_float32

    model = in_float32(onnx.load(onnx_path)) if is_bfloat16 else onnx.load(onnx_path)
    # ONNX Runtime infers their types itself.
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return bytes(model.SerializeToString())


def value_names(onnx_path: Path) -> tuple[str, ...]:
    """Return the names of all values that the nodes of an ONNX file make, in topological order."""
    import onnx

    return tuple(name for node in onnx.load(onnx_path).graph.node for name in node.output)
