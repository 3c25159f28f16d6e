"""Stages of any partition, put together again, are the whole graph that they were cut from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.export import ExportOptions, export_bundle
from parnet_deploy.graphs.join import join_stages
from parnet_deploy.graphs.run import run_graph
from parnet_deploy.planning.partition import boundary_names


# Those in which stages repeat most, and in which they repeat nothing.
@pytest.mark.parametrize("partition", ["streams", "terms-shared-stem"])
def test_any_partition_joins_to_the_whole(checkpoint_pair, tmp_path: Path, partition: str) -> None:
    pair = checkpoint_pair("four_streams")
    graphs = {}
    for kind in ("whole", partition):
        export_bundle(pair.fused, tmp_path / kind, ExportOptions(partition=kind), force=True)
        opened = open_bundle(tmp_path / kind)
        graphs[kind] = join_stages([ir.load(opened.file_of(stage.name)) for stage in opened.manifest.stages])
    whole, joined = graphs["whole"], graphs[partition]
    assert sorted(node.name or "" for node in joined.graph) == sorted(node.name or "" for node in whole.graph)
    assert sorted(joined.graph.initializers) == sorted(whole.graph.initializers)
    assert [value.name for value in (*joined.graph.inputs, *joined.graph.outputs)] == ["image", "logits"]
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    streams = opened.manifest.network.num_streams
    names = (*boundary_names(streams, with_terms=True), "logits")
    expected, found = (run_graph(graph, {"image": image}, names) for graph in (whole, joined))
    for tensor in names:
        assert np.array_equal(expected[tensor], found[tensor]), tensor
