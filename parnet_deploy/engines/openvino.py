"""The OpenVINO backend on CPUs: an engine is the compiled model as OpenVINO exports it.

OpenVINO's default computes float32 networks in bfloat16 where the processor can, also when a model that was compiled
otherwise is imported; precision is the bundle's, so float32 is asked for in both places, and bfloat16 for bundles in it
alone. Layers between Q and DQ operators run in int8 all the same.

An engine is mapped into memory while OpenVINO takes the weights from it and packs them anew. Read from bytes, ParNet-L
peaked at 775 MiB and took 0.57 s of a core; mapped 575 MiB and 0.34 s; with the pages given back on the way, 385 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.engines.base import FOREIGN_GRAPH, Array, Report, StageSpec, check_binding, cpu_only
from parnet_deploy.engines.cpu import cpu_record
from parnet_deploy.engines.mapped import MappedFile
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.errors import BUILD_AGAIN, EngineError
from parnet_deploy.planning.placement import device_lanes

_DEVICE = "CPU"


def _settings(spec: StageSpec) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": "bf16" if spec.precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": spec.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Pinned, the threads of two stages would share a core and leave another idle.
        "ENABLE_CPU_PINNING": spec.is_alone,
    }


def _failure(
    spec: StageSpec, action: str, error: Exception, where: Path | None = None, remedy: str | None = None
) -> EngineError:
    # OpenVINO's messages begin with lines that name its own source files.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in reversed(lines) if "Exception from" not in line), type(error).__name__)
    return EngineError(f"OpenVINO cannot {action} stage {spec.name!r}: {reason}", where=where, remedy=remedy)


class OpenVinoBoundEngine:
    """An inference request on fixed arrays."""

    def __init__(self, request: Any, kept: Sequence[object], spec: StageSpec) -> None:
        self._infer = request.infer
        # The request holds addresses only.
        self._kept = kept
        self._spec = spec

    def run(self) -> None:
        """Run the stage on the bound arrays, without the interpreter's lock."""
        try:
            self._infer(share_outputs=True)
        except Exception as error:
            raise _failure(self._spec, "run", error) from error


class OpenVinoEngine:
    """A compiled model; several requests of it may run at the same time."""

    def __init__(self, model: Any, file: MappedFile, spec: StageSpec) -> None:
        self._model = model
        # Where the model reads weights that it did not pack.
        self._file: MappedFile | None = file
        self._spec = spec

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> OpenVinoBoundEngine:
        """Bind arrays in place: inputs are read and outputs written where they are."""
        check_binding(self._spec, inputs, outputs)
        arrays = {**inputs, **outputs}
        try:
            request = self._model.create_infer_request()
            for name, array in arrays.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        except Exception as error:
            raise _failure(self._spec, "bind", error) from error
        return OpenVinoBoundEngine(request, (self._file, *arrays.values()), self._spec)

    def close(self) -> None:
        """Drop the model; its memory and threads go with the last bound engine."""
        self._model = None
        self._file = None


class OpenVinoBackend:
    """Engines of OpenVINO's CPU plugin."""

    name = "openvino"
    suffix = ".blob"

    def __init__(self, options: BuildOptions | None = None) -> None:  # noqa: ARG002
        """Take the options of any backend: there is nothing to set."""
        self._core = openvino.Core()

    def version(self) -> str:
        """Return OpenVINO's version."""
        return str(openvino.__version__)

    def runs(self, version: str) -> bool:
        """Tell whether engines of a version run here: only its own."""
        return version == self.version()

    def lanes(self, count: int) -> tuple[Lane, ...]:
        """Return a lane for every stage, as for ONNX Runtime."""
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
        """Compile the stage's graph for this processor and the bundle's batch sizes, and save it."""
        batch = openvino.Dimension(spec.batch.min, spec.batch.max)
        try:
            model = self._core.read_model(str(onnx_path))
            model.reshape({name: [batch, *tensor.shape] for name, tensor in spec.inputs.items()})
            exported = self._core.compile_model(model, _DEVICE, _settings(spec)).export_model()
        except Exception as error:
            raise _failure(spec, "compile", error, onnx_path, FOREIGN_GRAPH) from error
        engine_path.write_bytes(exported.getvalue())
        return {}

    def load(self, engine_path: Path, spec: StageSpec) -> OpenVinoEngine:
        """Import a compiled model, and check that its tensors are the stage's."""
        try:
            file = MappedFile(engine_path)
            with file.giving_back():
                blob = openvino.Tensor(file.array, shared_memory=True)
                model = self._core.import_model(blob, _DEVICE, _settings(spec))
            found = {
                port.get_any_name(): (np.dtype(port.get_element_type().to_dtype()), port.get_partial_shape())
                for port in (*model.inputs, *model.outputs)
            }
        except Exception as error:
            raise _failure(spec, "load", error, engine_path, BUILD_AGAIN) from error
        batch = openvino.Dimension(spec.batch.min, spec.batch.max)
        for name, tensor in spec.tensors.items():
            wanted = np.dtype(tensor.dtype), openvino.PartialShape([batch, *tensor.shape])
            if name not in found or found[name][0] != wanted[0] or not found[name][1].compatible(wanted[1]):
                raise EngineError(
                    f"stage {spec.name!r}: the engine has {sorted(found)}, and no {tensor.dtype} {name!r} of shape "
                    f"{wanted[1]}",
                    where=engine_path,
                    remedy=BUILD_AGAIN,
                )
        return OpenVinoEngine(model, file, spec)
