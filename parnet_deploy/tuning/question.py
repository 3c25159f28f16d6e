"""What is asked of a tuning: bundles of one network, backends that are there, this machine and its cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from parnet_deploy.artifacts.folders import OpenBundle, open_bundle
from parnet_deploy.artifacts.report import Machine
from parnet_deploy.artifacts.tuning import TunedBundle
from parnet_deploy.bench.contenders import labels_of
from parnet_deploy.bench.machine import describe_machine
from parnet_deploy.engines.cpu import usable_cores
from parnet_deploy.engines.registry import get_backend
from parnet_deploy.errors import ArtifactError, EngineError, MissingDependencyError
from parnet_deploy.tuning.candidates import BackendTraits, BundleTraits, Candidate, candidates_of
from parnet_deploy.tuning.cuts import Source, sources_of

# Tried where none is named, as far as they are installed and have a device. Torch is not: it is the authoring side's.
DEFAULT_BACKENDS = ("onnxruntime", "openvino", "ncnn", "tensorrt", "onnxruntime-cuda")
# What ncnn is tried with beside its default where a budget says how much memory may be spent: 4 is all that there is to
# gain, the other fits in more often.
_MEMORY_FACTORS = (2.25, 4.0)


@dataclass(frozen=True)
class Question:
    """Everything that a tuning's result depends on, apart from its limits; sources by label, versions by backend."""

    sources: Mapping[str, Source]
    backends: tuple[BackendTraits, ...]
    versions: Mapping[str, str]
    machine: Machine
    cores: tuple[int, ...]

    def describe_bundles(self) -> tuple[TunedBundle, ...]:
        """Return the bundles as a report names them."""
        return tuple(
            TunedBundle(
                label=label,
                sha256=source.bundle.sha256,
                partition=source.partition,
                precision=source.bundle.manifest.precision,
                batch=source.bundle.manifest.batch.opt,
            )
            for label, source in self.sources.items()
        )

    def candidates(self) -> tuple[Candidate, ...]:
        """Return everything that can be chosen."""
        traits = [BundleTraits.of(label, source) for label, source in self.sources.items()]
        return candidates_of(traits, self.backends, len(self.cores))


def ask(bundles: Sequence[Path], backends: Sequence[str] | None, *, spend_memory: bool = False) -> Question:
    """Open bundles and look for backends; with `spend_memory` those that can are also built to take more of it.

    Raises:
        ArtifactError: a damaged bundle, or bundles of different networks or inputs.
        EngineError: an unknown backend, or one that was named and has no device.
        MissingDependencyError: a backend that was named, or every one, is not installed.
    """
    opened = dict(zip(labels_of(bundles), (open_bundle(Path(folder)) for folder in bundles), strict=True))
    check_one_network(opened)
    traits, versions = find_backends(backends)
    if spend_memory:
        traits += tuple(
            replace(entry, memory_factor=factor)
            for entry in traits
            if entry.name == "ncnn"
            for factor in _MEMORY_FACTORS
        )
    return Question(sources_of(opened), traits, versions, describe_machine(), usable_cores())


def check_one_network(bundles: Mapping[str, OpenBundle]) -> None:
    """Raise `ArtifactError` unless all bundles are of one network on inputs of one size."""
    first, *others = bundles.values()
    for bundle in others:
        for name in ("network", "preprocessing"):
            if getattr(bundle.manifest, name) != getattr(first.manifest, name):
                raise ArtifactError(
                    f"differs from {first.folder} in {name}",
                    where=bundle.folder,
                    remedy="tune bundles of one network, which differ in partition, precision or batch",
                )


def find_backends(names: Sequence[str] | None) -> tuple[tuple[BackendTraits, ...], dict[str, str]]:
    """Return the named backends, or all that are installed and have a device, with their versions; errors as `ask`."""
    traits: list[BackendTraits] = []
    versions: dict[str, str] = {}
    errors: list[MissingDependencyError | EngineError] = []
    for name in names or DEFAULT_BACKENDS:
        try:
            backend = get_backend(name)
            lanes = backend.lanes(2)
            backend.device_records(sorted({lane.device for lane in lanes}))
        except (MissingDependencyError, EngineError) as error:
            if names is not None:
                raise
            errors.append(error)
            continue
        traits.append(BackendTraits(name, has_lanes=len(lanes) > 1, on_gpu=lanes[0].device != "cpu"))
        versions[name] = backend.version()
    if not traits:
        raise errors[0]
    return tuple(traits), versions
