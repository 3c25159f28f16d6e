"""The ncnn backend on CPUs: float32 convolutions by Winograd's algorithm, which ONNX Runtime and OpenVINO do not have.

F(4,3) does 36 multiplications where a direct 3x3 convolution does 144 (Lavin and Gray, arXiv 1509.09308), at a few
more bits of rounding; where its weights would take too much memory, F(2,3) does 16 where the direct one does 36
(`ncnn_winograd`). An engine is one file: ncnn's weights, and behind them its text of the layers, where ncnn does not
read. Weights are transformed when it is opened.

The Python package holds the interpreter's lock while a network runs, so stages of one process run one after another,
all on one lane.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ncnn
import numpy as np

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.engines.base import Array, Report, StageSpec, check_binding, cpu_only
from parnet_deploy.engines.cpu import cpu_record
from parnet_deploy.engines.ncnn_model import convert_to_ncnn
from parnet_deploy.engines.ncnn_winograd import MEMORY_FACTOR
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.errors import BUILD_AGAIN, EngineError
from parnet_deploy.planning.placement import device_lanes

# What an engine file ends with: the length of the text before it, and this mark.
_FOOTER = struct.Struct("<Q8s")
_MARK = b"ncnntext"


class NcnnBoundEngine:
    """A network with fixed arrays, run sample by sample: ncnn has no batch axis."""

    def __init__(self, net: Any, spec: StageSpec, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        self._net = net
        self._spec = spec
        batch = len(next(iter(inputs.values())))
        self._samples = [
            (
                [(name, _without_ones(array[index])) for name, array in inputs.items()],
                [(name, array[index]) for name, array in outputs.items()],
            )
            for index in range(batch)
        ]

    def run(self) -> None:
        """Run the stage on the bound arrays, with the interpreter's lock."""
        for inputs, outputs in self._samples:
            extractor = self._net.create_extractor()
            for name, sample in inputs:
                # A copy, because ncnn may compute in place.
                self._check(extractor.input(name, ncnn.Mat(sample).clone()), f"take {name!r} in")
            for name, array in outputs:
                status, mat = extractor.extract(name)
                self._check(status, f"compute {name!r} in")
                np.copyto(array, np.asarray(mat).reshape(array.shape))

    def _check(self, status: int, action: str) -> None:
        if status != 0:
            raise EngineError(f"ncnn cannot {action} stage {self._spec.name!r} (error {status})")


def _without_ones(sample: Array) -> Array:
    """Return a number for each channel as a vector, as ncnn has it."""
    return sample.reshape(-1) if sample.shape[1:] == (1, 1) else sample


class NcnnEngine:
    """A loaded network; its weights are transformed and no longer the file's."""

    def __init__(self, engine_path: Path, spec: StageSpec) -> None:
        self._spec = spec
        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = spec.threads
        # Precision is the bundle's; without this, ncnn stores weights in 16 bits where the processor can.
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(options, f"use_{name}", False)
        # F(6,3) rounds several times worse than F(4,3); ncnn itself takes it for 32 channels and fewer only.
        options.use_winograd63_convolution = False
        if self.net.load_param_mem(read_text(engine_path)) != 0:
            raise EngineError(
                f"ncnn cannot read the layers of stage {spec.name!r}", where=engine_path, remedy=BUILD_AGAIN
            )
        if self.net.load_model(str(engine_path)) != 0:
            raise EngineError(
                f"ncnn cannot load the weights of stage {spec.name!r}", where=engine_path, remedy=BUILD_AGAIN
            )
        found = sorted(self.net.input_names()), sorted(self.net.output_names())
        if found != (sorted(spec.inputs), sorted(spec.outputs)):
            raise EngineError(
                f"stage {spec.name!r} has inputs {found[0]} and outputs {found[1]}",
                where=engine_path,
                remedy=BUILD_AGAIN,
            )

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> NcnnBoundEngine:
        """Bind arrays, which are copied from and to."""
        check_binding(self._spec, inputs, outputs)
        return NcnnBoundEngine(self.net, self._spec, inputs, outputs)

    def close(self) -> None:
        """Drop the network; its memory goes with the last bound engine."""
        self.net = None


def read_text(path: Path) -> str:
    """Return the text behind the weights; raise `EngineError` for a file without it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size >= _FOOTER.size:
            file.seek(size - _FOOTER.size)
            length, mark = _FOOTER.unpack(file.read(_FOOTER.size))
            if mark == _MARK and length <= size - _FOOTER.size:
                file.seek(size - _FOOTER.size - length)
                return file.read(length).decode()
    raise EngineError("not an ncnn engine", where=path, remedy=BUILD_AGAIN)


class NcnnBackend:
    """Engines of ncnn on the processor, for fused float32 bundles."""

    name = "ncnn"
    suffix = ".ncnn"

    def __init__(self, options: BuildOptions | None = None) -> None:
        """Take the memory factor."""
        options = options or BuildOptions()
        self._memory_factor = MEMORY_FACTOR if options.memory_factor is None else options.memory_factor

    def version(self) -> str:
        """Return ncnn's version."""
        return str(ncnn.__version__)

    def runs(self, version: str) -> bool:
        """Tell whether engines of a version run here: only its own."""
        return version == self.version()

    def lanes(self, count: int) -> tuple[Lane, ...]:  # noqa: ARG002
        """Return the one lane that there is."""
        return device_lanes("cpu", 1)

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
        """Write the stage as an ncnn model and return its layers by type."""
        for name, tensor in spec.tensors.items():
            if tensor.dtype != "float32":
                raise EngineError(
                    f"stage {spec.name!r}: {name!r} is {tensor.dtype}, and backend 'ncnn' takes float32 bundles",
                    remedy="export with --precision fp32, or choose another backend",
                )
        model = convert_to_ncnn(onnx_path, self._memory_factor)
        text = model.param.encode()
        engine_path.write_bytes(model.weights + text + _FOOTER.pack(len(text), _MARK))
        kinds = re.findall(r"^([A-Z]\w+) ", model.param, re.MULTILINE)
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def load(self, engine_path: Path, spec: StageSpec) -> NcnnEngine:
        """Open an engine file and transform its weights."""
        return NcnnEngine(engine_path, spec)
