"""Build one serialized engine: parse the ONNX file, add the batch's profile, configure, compile.

The same calls serve TensorRT 10 and 11 and TensorRT for RTX. Polygraphy's loaders are not between, because they fix the
flavour for the whole process by an environment variable, send a parser's errors to a log instead of raising them, and
do not look at what `set_compute_capability` answers; a test compares the engines with Polygraphy's byte by byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.schemas import TensorSpec
from parnet_deploy.engines.base import FOREIGN_GRAPH, Report, StageSpec
from parnet_deploy.engines.options import BuildOptions, HardwareCompatibility
from parnet_deploy.engines.tensorrt_errors import collected_errors, logger, tensorrt_failure
from parnet_deploy.engines.tensorrt_flavour import TensorRT
from parnet_deploy.errors import EXPORT_AGAIN, EngineError

# TensorRT's names of the types that cross between stages.
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8"}
_HARDWARE_COMPATIBILITY: dict[HardwareCompatibility, str] = {
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}

# TensorRT for RTX has no float32 matrix products for Turing.
_TURING_REMEDY = "for compute capability 75 export with --precision fp16, or leave 75 out"


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine, how many layers of each type its network has, and the timings it was chosen by."""

    data: bytes
    layers: dict[str, int]
    timing_cache: bytes | None


def build_engine(
    tensorrt: TensorRT,
    onnx_path: Path,
    spec: StageSpec,
    options: BuildOptions,
    targets: tuple[str, ...],
    timing_cache: bytes | None = None,
    report: Report | None = None,
) -> BuiltEngine:
    """Compile a stage for the current device, or for `targets` where the flavour builds ahead of time.

    The network is strongly typed: every tensor has the type that the ONNX file gives it. `timing_cache` holds earlier
    timings of this device and version, or nothing; `None` builds without. `report` is told TensorRT's phases and steps.

    Raises:
        EngineError: TensorRT cannot parse the file or build the engine; its own message, with the node's name.
    """
    trt = tensorrt.module
    with collected_errors(trt) as messages:
        try:
            builder = trt.Builder(logger(trt))
        except TypeError as error:
            raise tensorrt_failure(tensorrt, spec, "make a builder for", messages or [str(error)]) from error
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        _parse(tensorrt, network, onnx_path, spec, messages)
        config = _configure(trt, builder, options)
        _set_targets(tensorrt, config, spec, targets)
        _add_profile(builder, config, spec)
        has_timings = timing_cache is not None and _set_timing_cache(config, timing_cache)
        if report is not None:
            monitor = _monitor(trt, report)
            config.progress_monitor = monitor
        data = builder.build_serialized_network(network, config)
        if data is None:
            raise tensorrt_failure(
                tensorrt, spec, "build", messages, remedy=_TURING_REMEDY if "75" in targets else None
            )
        layers = Counter(network.get_layer(index).type.name for index in range(network.num_layers))
        timings = bytes(config.get_timing_cache().serialize()) if has_timings else None
        return BuiltEngine(bytes(data), dict(sorted(layers.items())), timings)


def _parse(tensorrt: TensorRT, network: Any, onnx_path: Path, spec: StageSpec, messages: list[str]) -> None:
    parser = tensorrt.module.OnnxParser(network, logger(tensorrt.module))
    if not parser.parse_from_file(str(onnx_path)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = [_locate(error) for error in errors]
        raise tensorrt_failure(tensorrt, spec, "read", found or messages, onnx_path, FOREIGN_GRAPH)
    found_inputs = [network.get_input(index) for index in range(network.num_inputs)]
    found_outputs = [network.get_output(index) for index in range(network.num_outputs)]
    _check_tensors(found_inputs, spec.inputs, spec, onnx_path)
    _check_tensors(found_outputs, spec.outputs, spec, onnx_path)


def _locate(error: Any) -> str:
    """Say at which node the parser failed; -1 is no node, as for a file that is not ONNX."""
    if error.node() < 0:
        return str(error.desc())
    return f"node {error.node_name() or error.node()!r} ({error.node_operator()}): {error.desc()}"


def _check_tensors(found: list[Any], expected: Mapping[str, TensorSpec], spec: StageSpec, path: Path) -> None:
    names = [tensor.name for tensor in found]
    if sorted(names) != sorted(expected):
        what = f"stage {spec.name!r} has tensors {names}, the manifest says {list(expected)}"
        raise EngineError(what, where=path, remedy=EXPORT_AGAIN)
    for tensor in found:
        wanted = expected[tensor.name]
        shape = (-1 if spec.batch.is_dynamic else spec.batch.opt, *wanted.shape)
        if DTYPES.get(tensor.dtype.name) != wanted.dtype or tuple(tensor.shape) != shape:
            raise EngineError(
                f"stage {spec.name!r}: {tensor.name!r} is {tensor.dtype.name}{list(tensor.shape)}, the manifest says "
                f"{wanted.dtype}{list(shape)}",
                where=path,
                remedy=EXPORT_AGAIN,
            )


def _configure(trt: Any, builder: Any, build_options: BuildOptions) -> Any:
    config = builder.create_builder_config()
    options = build_options.tensorrt
    if not build_options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatibility is not None:
        level = _HARDWARE_COMPATIBILITY[options.hardware_compatibility]
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.__members__[level]
    if options.detailed_profiling:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def _set_targets(tensorrt: TensorRT, config: Any, spec: StageSpec, targets: tuple[str, ...]) -> None:
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets):
        capability = tensorrt.module.ComputeCapability.__members__[f"SM{target}"]
        if not config.set_compute_capability(capability, index):
            raise tensorrt_failure(tensorrt, spec, f"target compute capability {target} for", [])


def _add_profile(builder: Any, config: Any, spec: StageSpec) -> None:
    """Add the one optimisation profile: the bundle's batch range, for every input."""
    profile = builder.create_optimization_profile()
    sizes = (spec.batch.min, spec.batch.opt, spec.batch.max)
    for name, tensor in spec.inputs.items():
        low, opt, high = ((size, *tensor.shape) for size in sizes)
        profile.set_shape(name, low, opt, high)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(
            f"TensorRT refuses the batch sizes {sizes} of stage {spec.name!r}",
            remedy="export with --batch, or with another --dynamic-batch MIN:OPT:MAX",
        )


def _set_timing_cache(config: Any, data: bytes) -> bool:
    """Use earlier timings; where they are another device's or damaged, begin anew."""
    for candidate in (data, b""):
        timing_cache = config.create_timing_cache(candidate)
        if timing_cache is not None and config.set_timing_cache(timing_cache, False):
            return True
    return False


def _monitor(trt: Any, report: Report) -> Any:
    """Return a progress monitor that reports the innermost phase; TensorRT stops where the answer is no."""

    class PhaseMonitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, _parent: str | None, steps: int) -> None:
            self._steps[phase] = steps

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            return report(f"{phase.lower()} {step + 1}/{self._steps.get(phase, step + 1)}")

    return PhaseMonitor()
