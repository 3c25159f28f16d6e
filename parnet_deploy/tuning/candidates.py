"""What can be chosen from: bundles, backends and arrangements, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import Precision
from parnet_deploy.planning.arrangement import Arrangement
from parnet_deploy.planning.placement import device_lanes, place
from parnet_deploy.tuning.cuts import Source

# Backends whose threads can be kept on the cores that a plan names; OpenVINO pins its own, ncnn none.
_KEEP_TO_CORES = frozenset({"onnxruntime"})


@dataclass(frozen=True)
class BundleTraits:
    """What a bundle's candidates depend on; `width` is how many stages can run at the same time."""

    label: str
    precision: Precision
    batch: int
    stages: int
    width: int

    @classmethod
    def of(cls, label: str, source: Source) -> BundleTraits:
        """Describe a bundle."""
        stages, graph = source.stages, source.bundle.manifest
        lanes = place(stages, device_lanes("cpu", len(stages))).values()
        return cls(label, graph.precision, graph.batch.opt, len(stages), len(set(lanes)))


@dataclass(frozen=True)
class BackendTraits:
    """What a backend's candidates depend on: whether stages can run at the same time, where, and how they are built."""

    name: str
    has_lanes: bool = True
    on_gpu: bool = False
    memory_factor: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A bundle's stages, built by a backend, in an arrangement."""

    bundle: BundleTraits
    backend: str
    arrangement: Arrangement
    on_gpu: bool = False
    memory_factor: float | None = None

    @property
    def is_split(self) -> bool:
        """Whether stages run at the same time: the choice that has to prove itself."""
        return self.bundle.stages > 1 and self.arrangement.order == "side by side"

    @property
    def label(self) -> str:
        """Name it in a table; the order of a single stage is nothing to tell, nor are the host's threads to a GPU."""
        arrangement = self.arrangement.order if self.on_gpu else str(self.arrangement)
        if self.bundle.stages == 1:
            arrangement = "" if self.on_gpu else arrangement.removeprefix(f"{self.arrangement.order}, ")
        backend = self.backend if self.memory_factor is None else f"{self.backend} x{self.memory_factor:g}"
        return ", ".join(part for part in (self.bundle.label, backend, arrangement) if part)


def candidates_of(
    bundles: Sequence[BundleTraits], backends: Sequence[BackendTraits], cores: int
) -> tuple[Candidate, ...]:
    """Return every candidate, the plain ones first: all cores, one stage after another, nothing pinned."""
    found = [
        Candidate(bundle, backend.name, arrangement, backend.on_gpu, backend.memory_factor)
        for bundle in bundles
        for backend in backends
        for arrangement in _arrangements(bundle, backend, cores)
    ]
    return tuple(sorted(found, key=lambda candidate: _plainness(candidate, cores)))


def _arrangements(bundle: BundleTraits, backend: BackendTraits, cores: int) -> list[Arrangement]:
    if backend.on_gpu:
        return [Arrangement(1)] + ([Arrangement(1, "side by side")] if bundle.width > 1 and backend.has_lanes else [])
    can_pin = backend.name in _KEEP_TO_CORES and cores > 1
    if bundle.stages == 1:
        # Half of the cores: where two of them are threads of one.
        counts = sorted({cores, max(1, cores // 2), 1}, reverse=True)
        return [Arrangement(count) for count in counts] + ([Arrangement(cores, is_pinned=True)] if can_pin else [])
    found = [Arrangement(cores)]
    if bundle.width > 1 and backend.has_lanes:
        found.append(Arrangement(cores, "side by side"))
        if cores > 1:
            found.append(Arrangement(cores, "side by side", "all"))
        if can_pin and cores >= bundle.width:
            found.append(Arrangement(cores, "side by side", is_pinned=True))
    return found


def _plainness(candidate: Candidate, cores: int) -> tuple[bool, bool, bool]:
    arrangement = candidate.arrangement
    return candidate.is_split, arrangement.is_pinned, arrangement.cores != cores
