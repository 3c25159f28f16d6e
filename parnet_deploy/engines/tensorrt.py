"""The TensorRT backend: engines for GPUs, built on them or, with TensorRT for RTX, ahead of time without one.

An engine belongs to one version of TensorRT and to the compute capabilities that it was built for. Precision comes
from the bundle: networks are strongly typed, and TF32 is off unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.engines.base import Report, StageSpec
from parnet_deploy.engines.gpus import Gpu, current_gpu, device_ordinal, find_gpus, gpu_lanes, list_gpus
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.engines.tensorrt_build import BuiltEngine, build_engine
from parnet_deploy.engines.tensorrt_cache import EngineCache, engine_key
from parnet_deploy.engines.tensorrt_flavour import check_options, check_targets, load_tensorrt
from parnet_deploy.engines.tensorrt_run import TensorRTEngine


class TensorRTBackend:
    """Engines of TensorRT 10, 11 or for RTX, whichever is installed."""

    name = "tensorrt"
    suffix = ".engine"

    def __init__(self, options: BuildOptions | None = None) -> None:
        """Import TensorRT.

        Raises:
            MissingDependencyError: no TensorRT is installed, or not the one that was asked for.
        """
        options = options or BuildOptions()
        self._build_options = options
        self._options = options.tensorrt
        self._trt = load_tensorrt(options.tensorrt)
        cache_dir = options.tensorrt.cache_dir
        self._cache = None if cache_dir is None else EngineCache(cache_dir)

    def version(self) -> str:
        """Return TensorRT's version, with `rtx` before it where it is TensorRT for RTX."""
        return self._trt.version

    def lanes(self, count: int) -> tuple[Lane, ...]:
        """Return one lane on each device that was named, or as many streams of the first GPU as there are stages."""
        return gpu_lanes(self._build_options.devices, count)

    def device_records(self, devices: Sequence[str]) -> tuple[DeviceRecord, ...]:
        """Describe the GPUs, or the compute capabilities that were named instead of them.

        Raises:
            EngineError: a device that is not there, GPUs of different compute capability, or options that this
                TensorRT or these GPUs do not go with.
        """
        targets = self._options.compute_capabilities
        gpus = () if targets else list_gpus()
        check_options(self._trt, self._options, has_gpu=bool(gpus or (self._options.refit and list_gpus())))
        if targets:
            dotted = ", ".join(f"{target[:-1]}.{target[-1]}" for target in targets)
            capability = " ".join(f"sm{target}" for target in targets)
            return tuple(
                DeviceRecord(device=device, name=f"compute capability {dotted}", capability=capability)
                for device in devices
            )
        found = find_gpus(devices, gpus)
        if self._trt.flavour == "rtx":
            check_targets(self._trt, tuple({gpu.compute_capability for gpu in found}))
        return tuple(self._record(device, gpu) for device, gpu in zip(devices, found, strict=True))

    def _record(self, device: str, gpu: Gpu) -> DeviceRecord:
        later = self._options.hardware_compatibility == "ampere-plus"
        capability = "sm80+" if later else f"sm{gpu.compute_capability}"
        return DeviceRecord(device=device, name=gpu.name, capability=capability)

    def build(
        self, onnx_path: Path, spec: StageSpec, engine_path: Path, *, report: Report | None = None
    ) -> Mapping[str, int]:
        """Write the stage's engine and return its layers by type; one that is in the cache is not built again."""
        (device,) = self.device_records([spec.lane.device])
        key = engine_key(onnx_path, spec, self.version(), device, self._build_options)
        found = None if self._cache is None else self._cache.find(key)
        if found is None:
            built = self._build(onnx_path, spec, device, report)
            found = built.data, built.layers
            if self._cache is not None:
                self._cache.store(key, *found)
                if built.timing_cache is not None:
                    self._cache.store_timings(self.version(), device, built.timing_cache)
        data, layers = found
        engine_path.write_bytes(data)
        return layers

    def _build(self, onnx_path: Path, spec: StageSpec, device: DeviceRecord, report: Report | None) -> BuiltEngine:
        is_rtx = self._trt.flavour == "rtx"
        targets = tuple(part.removeprefix("sm") for part in device.capability.split()) if is_rtx else ()
        # TensorRT for RTX times nothing while it builds.
        timings = None if is_rtx or self._cache is None else self._cache.timings(self.version(), device)
        ahead = bool(self._options.compute_capabilities)
        with nullcontext() if ahead else current_gpu(device_ordinal(spec.lane.device)):
            return build_engine(self._trt, onnx_path, spec, self._build_options, targets, timings, report)

    def runs(self, version: str) -> bool:
        """Tell whether engines of a version run here: its own, or an earlier one's that were built to be compatible."""
        own = self.version()
        if version == own or not self._options.version_compatible:
            return version == own
        return [int(part) for part in version.split(".")] <= [int(part) for part in own.split(".")]

    def load(self, engine_path: Path, spec: StageSpec) -> TensorRTEngine:
        """Deserialize an engine onto the current device."""
        kernels = None
        if self._cache is not None and self._trt.flavour == "rtx":
            (device,) = self.device_records([spec.lane.device])
            kernels = self._cache.kernels(engine_path, self.version(), device)
        host_code = self._options.version_compatible
        return TensorRTEngine(self._trt, engine_path, spec, host_code=host_code, kernels=kernels)
