"""Cut a whole bundle into stages where it is run, so that partitions can be compared without the authoring side.

A bundle's graph keeps the names of all tensors that it may be cut at, so a stage is what lies between its tensors. A
quantised bundle is not cut here: which of its tensors hold integers is decided for the cut (`quantize --partition`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from parnet_deploy.artifacts.files import replacing_folder, write_manifest
from parnet_deploy.artifacts.folders import OpenBundle
from parnet_deploy.artifacts.schemas import BundleStage, FileRecord, Stage, TensorSpec
from parnet_deploy.errors import ArtifactError, ExportError
from parnet_deploy.planning.partition import partition

# Cuts at the terms of Fusion blocks save bytes between devices, and on one device there are none to save.
_CUTS = ("streams", "shared-stem")


@dataclass(frozen=True)
class Source:
    """A bundle as it was given or, with `cut`, a whole one cut into another partition."""

    bundle: OpenBundle
    cut: str | None = None

    @property
    def partition(self) -> str:
        """The partition's name."""
        return self.cut or self.bundle.manifest.partition

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, in topological order."""
        graph = self.bundle.manifest
        return graph.stages if self.cut is None else partition(graph.network, self.cut, form=graph.form)


def sources_of(bundles: Mapping[str, OpenBundle]) -> dict[str, Source]:
    """Return the bundles by label, and each whole one of several streams also cut, unless that cut was given too.

    Without the package `onnx_ir` nothing is cut.
    """
    sources = {label: Source(bundle) for label, bundle in bundles.items()}
    given = {_kind(bundle, bundle.manifest.partition) for bundle in bundles.values()}
    for label, bundle in bundles.items():
        graph = bundle.manifest
        is_whole = len(graph.stages) == 1 and graph.network.num_streams > 1
        if not is_whole or graph.quantization is not None or find_spec("onnx_ir") is None:
            continue
        for cut in _CUTS:
            if _kind(bundle, cut) not in given:
                sources[f"{label} ({cut})"] = Source(bundle, cut)
    return sources


def _kind(bundle: OpenBundle, partition_name: str) -> tuple[object, ...]:
    graph = bundle.manifest
    return graph.form, graph.precision, graph.batch, partition_name


def cut_bundle(source: Source, folder: Path) -> None:
    """Write a whole bundle, cut as the source says, to a folder.

    Raises:
        ArtifactError: the graph cannot be cut there, or the folder cannot be written.
    """
    import onnx_ir as ir

    from parnet_deploy.graphs.stages import extract_stage, tensor_spec, write_stage

    manifest = source.bundle.manifest
    whole = ir.load(source.bundle.file_of(manifest.stages[0].name))
    tensors: dict[str, TensorSpec] = {}
    entries = []
    with replacing_folder(folder, force=False) as partial:
        for stage in source.stages:
            path = partial / f"{stage.name}.onnx"
            try:
                model = extract_stage(whole, stage)
                tensors |= {
                    str(value.name): tensor_spec(value) for value in (*model.graph.inputs, *model.graph.outputs)
                }
                write_stage(model, path, {**whole.metadata_props, "parnet_deploy.partition": source.partition})
            except ExportError as error:
                raise ArtifactError(
                    f"cannot be cut into {source.cut}: {error.what}",
                    where=source.bundle.folder,
                    remedy=f"export it once more, with --partition {source.cut}",
                ) from error
            entries.append(BundleStage(**stage.model_dump(), file=FileRecord.of(path)))
        update = {"partition": source.partition, "stages": tuple(entries), "tensors": tensors, "parity": {}}
        write_manifest(partial / "bundle.json", manifest.model_copy(update=update))
