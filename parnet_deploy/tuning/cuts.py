"""Cut a whole bundle into stages where it is run, so that partitions can be compared without the authoring side.

A bundle's graph keeps the names of all tensors that it may be cut at, so a stage is what lies between its tensors, as
in `export.stages`; only the package `onnx` is needed for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from parnet_deploy.artifacts.files import replacing_folder, write_manifest
from parnet_deploy.artifacts.folders import OpenBundle
from parnet_deploy.artifacts.schemas import BundleStage, FileRecord, Stage, TensorSpec
from parnet_deploy.errors import ArtifactError
from parnet_deploy.planning.partition import partition

if TYPE_CHECKING:
    from onnx import GraphProto, ValueInfoProto

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
    """Return the bundles by label, and each whole one of several streams also cut, unless that cut was given too."""
    sources = {label: Source(bundle) for label, bundle in bundles.items()}
    given = {_kind(bundle, bundle.manifest.partition) for bundle in bundles.values()}
    for label, bundle in bundles.items():
        graph = bundle.manifest
        if len(graph.stages) > 1 or graph.network.num_streams == 1 or find_spec("onnx") is None:
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
        ArtifactError: the graph lacks a tensor that it is to be cut at, or the folder cannot be written.
    """
    import onnx
    from onnx.utils import Extractor

    manifest = source.bundle.manifest
    whole = onnx.load(source.bundle.file_of(manifest.stages[0].name))
    extractor = Extractor(onnx.shape_inference.infer_shapes(whole, strict_mode=True, data_prop=True))
    tensors: dict[str, TensorSpec] = {}
    entries = []
    with replacing_folder(folder, force=False) as partial:
        for stage in source.stages:
            try:
                model = extractor.extract_model(list(stage.inputs), list(stage.outputs))
                onnx.checker.check_model(model)
                _check_made(model.graph, stage)
            except (ValueError, KeyError, onnx.checker.ValidationError) as error:
                raise ArtifactError(
                    f"cannot be cut into {source.cut}: {str(error).splitlines()[0]}",
                    where=source.bundle.folder,
                    remedy=f"export it once more, with --partition {source.cut}",
                ) from error
            path = partial / f"{stage.name}.onnx"
            onnx.save(model, path)
            tensors |= {value.name: _tensor_spec(value) for value in (*model.graph.input, *model.graph.output)}
            entries.append(BundleStage(**stage.model_dump(), file=FileRecord.of(path)))
        update = {"partition": source.partition, "stages": tuple(entries), "tensors": tensors, "parity": {}}
        write_manifest(partial / "bundle.json", manifest.model_copy(update=update))


def _check_made(graph: GraphProto, stage: Stage) -> None:
    """Raise `ValueError` unless nodes make all of a stage's outputs; the extractor does not look."""
    made = {name for node in graph.node for name in node.output}
    for name in stage.outputs:
        if name not in made:
            raise ValueError(f"nothing makes {name!r}")


def _tensor_spec(value: ValueInfoProto) -> TensorSpec:
    """Describe a tensor without its batch axis."""
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    return TensorSpec(
        dtype=tensor_dtype_to_np_dtype(tensor.elem_type).name,  # type: ignore[arg-type]
        shape=tuple(int(extent.dim_value) for extent in tensor.shape.dim[1:]),
    )
