"""The torch backend: stages run by torch itself, on GPUs where there are any and else on the processor.

It needs no engine builder: an engine is the stage's ONNX file, which is turned into a module when it is loaded. On GPUs
it runs plans where TensorRT is not installed; on the processor it is the same code, so that what a GPU will run can be
tried without one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.engines.base import FOREIGN_GRAPH, Report, StageSpec
from parnet_deploy.engines.cpu import cpu_record
from parnet_deploy.engines.gpus import gpu_lanes, gpu_records, list_gpus
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.engines.torch_run import TorchDeviceEngine, TorchEngine, load_graph
from parnet_deploy.errors import EngineError
from parnet_deploy.planning.placement import device_lanes

_CPU = "cpu"


class TorchBackend:
    """Engines that are ONNX files, and modules of torch once they are loaded."""

    name = "torch"
    suffix = ".onnx"

    def __init__(self, options: BuildOptions | None = None) -> None:
        """Take devices and whether TF32 is on."""
        self._options = options or BuildOptions()

    def version(self) -> str:
        """Return torch's version, with what it was built for: `2.14.1+cu130`."""
        return str(torch.__version__)

    def runs(self, version: str) -> bool:
        """Tell whether engines of a version run here: only its own."""
        return version == self.version()

    def lanes(self, count: int) -> tuple[Lane, ...]:
        """Return lanes of GPUs if some were named or the driver sees one, else a lane of the processor for each stage.

        Raises:
            EngineError: TF32 was asked for, and there is no GPU.
        """
        if self._options.devices is not None or list_gpus():
            return gpu_lanes(self._options.devices, count)
        if self._options.tf32:
            raise EngineError("only GPUs have TF32, and there is none here", remedy="leave out --tf32")
        return device_lanes(_CPU, count)

    def device_records(self, devices: Sequence[str]) -> tuple[DeviceRecord, ...]:
        """Describe the processor or GPUs.

        Raises:
            EngineError: a device that is not there, GPUs of different compute capability, or a torch that cannot use
                them.
        """
        if set(devices) == {_CPU}:
            return tuple(cpu_record() for _ in devices)
        records = gpu_records(devices)
        if not torch.cuda.is_available():
            raise EngineError(
                f"torch {self.version()} cannot use the GPUs here",
                remedy="install a torch that is built for CUDA, and for no later CUDA than the driver's (nvidia-smi)",
            )
        return records

    def build(
        self,
        onnx_path: Path,
        spec: StageSpec,
        engine_path: Path,
        *,
        report: Report | None = None,  # noqa: ARG002
    ) -> Mapping[str, int]:
        """Copy the stage's file, once it is certain that it can be loaded; return how many operators of each type."""
        graph = load_graph(onnx_path, spec, FOREIGN_GRAPH)
        shutil.copyfile(onnx_path, engine_path)
        return graph.node_counts

    def load(self, engine_path: Path, spec: StageSpec) -> TorchEngine | TorchDeviceEngine:
        """Turn the file into a module, on the lane's device."""
        if spec.lane.device == _CPU:
            return TorchEngine(engine_path, spec)
        return TorchDeviceEngine(engine_path, spec, tf32=self._options.tf32)
