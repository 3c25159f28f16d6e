"""An engine that does nothing, so that what remains is the time of the harness around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from parnet_deploy.artifacts.schemas import DeviceRecord, Lane
from parnet_deploy.engines.base import Array, Report, StageSpec, check_binding
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.planning.placement import device_lanes


class NullBoundEngine:
    """Leaves its outputs as they are."""

    def run(self) -> None:
        """Do nothing."""


class NullEngine:
    """The engine of a stage that is not computed."""

    def __init__(self, spec: StageSpec) -> None:
        self._spec = spec

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> NullBoundEngine:
        """Check the arrays as any engine does, and forget them."""
        check_binding(self._spec, inputs, outputs)
        return NullBoundEngine()

    def close(self) -> None:
        """Nothing to give up."""


class NullBackend:
    """Builds empty files. Sessions over them take the calls of real ones and answer zeros."""

    name = "null"
    suffix = ".null"

    def __init__(self, options: BuildOptions | None = None) -> None:
        """Take the options of any backend: there is nothing to set."""

    def version(self) -> str:
        """Return a constant: there is nothing to be incompatible with."""
        return "1"

    def runs(self, version: str) -> bool:
        """Tell whether engines of a version run here: only its own."""
        return version == self.version()

    def lanes(self, count: int) -> tuple[Lane, ...]:
        """Return a lane for every stage."""
        return device_lanes("cpu", count)

    def device_records(self, devices: Sequence[str]) -> tuple[DeviceRecord, ...]:
        """Describe any device as equally good at doing nothing."""
        return tuple(DeviceRecord(device=device, name="null", capability="any") for device in devices)

    def build(
        self,
        onnx_path: Path,  # noqa: ARG002
        spec: StageSpec,  # noqa: ARG002
        engine_path: Path,
        *,
        report: Report | None = None,  # noqa: ARG002
    ) -> Mapping[str, int]:
        """Write an empty file."""
        engine_path.write_bytes(b"")
        return {}

    def load(self, engine_path: Path, spec: StageSpec) -> NullEngine:  # noqa: ARG002
        """Return an engine that does nothing."""
        return NullEngine(spec)
