"""Cutting a whole bundle gives the stages that export would have given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.checks.predictors import open_predictor
from parnet_deploy.errors import ArtifactError
from parnet_deploy.tuning.cuts import Source, cut_bundle, sources_of

Bundles = dict[str, Path]


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32), np.float32)


def test_a_whole_bundle_is_cut_as_export_cuts_it(digits_bundles: Bundles, tmp_path: Path) -> None:
    cut_bundle(Source(open_bundle(digits_bundles["whole"]), "streams"), tmp_path / "cut")
    found, expected = open_bundle(tmp_path / "cut").manifest, open_bundle(digits_bundles["streams"]).manifest
    assert found.tensors == expected.tensors
    same = [(stage.name, stage.inputs, stage.outputs) for stage in expected.stages]
    assert [(stage.name, stage.inputs, stage.outputs) for stage in found.stages] == same
    with open_predictor(tmp_path / "cut") as cut, open_predictor(digits_bundles["streams"]) as exported:
        mine, theirs = cut.predict_tensors(images(1)), exported.predict_tensors(images(1))
    assert mine.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(mine[name], array, err_msg=name)


@pytest.mark.parametrize(("bundle", "dtype"), [("whole", "float32"), ("half", "float16")])
def test_every_cut_gives_the_same_answers(digits_bundles: Bundles, tmp_path: Path, bundle: str, dtype: str) -> None:
    sources = sources_of({"b": open_bundle(digits_bundles[bundle])})
    assert list(sources) == ["b", "b (streams)", "b (shared-stem)"]
    with open_predictor(digits_bundles[bundle]) as predictor:
        expected = predictor.predict(images(1))
    for source in list(sources.values())[1:]:
        cut_bundle(source, tmp_path / source.partition)
        manifest = open_bundle(tmp_path / source.partition).manifest
        assert (manifest.partition, len(manifest.stages)) == (source.partition, len(source.stages))
        assert manifest.tensors["stream1"].dtype == dtype
        with open_predictor(tmp_path / source.partition) as predictor:
            found = predictor.predict(images(1))
        assert np.abs(found - expected).max() <= (1e-6 if bundle == "whole" else 1e-2) * np.abs(expected).max()


def test_cuts_that_were_given_are_not_made_again(digits_bundles: Bundles) -> None:
    opened = {name: open_bundle(digits_bundles[name]) for name in ("whole", "streams", "half")}
    labels = list(sources_of(opened))
    assert labels == ["whole", "streams", "half", "whole (shared-stem)", "half (streams)", "half (shared-stem)"]


def test_a_quantised_bundle_is_not_cut(digits_bundles: Bundles) -> None:
    opened = open_bundle(digits_bundles["whole"])
    quantised = replace(opened, manifest=opened.manifest.model_copy(update={"quantization": "somehow"}))
    assert list(sources_of({"b": quantised})) == ["b"]


def test_a_graph_without_the_tensor_is_named(digits_bundles: Bundles, tmp_path: Path) -> None:
    import onnx

    from parnet_deploy.artifacts.folders import OpenBundle

    opened = open_bundle(digits_bundles["whole"])
    model = onnx.load(opened.file_of("whole"))
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if name == "stream2" else name for name in names]
    onnx.save(model, tmp_path / "whole.onnx")
    damaged = OpenBundle(tmp_path, opened.manifest, opened.sha256)
    with pytest.raises(ArtifactError, match="cannot be cut into streams") as caught:
        cut_bundle(Source(damaged, "streams"), tmp_path / "cut")
    assert caught.value.remedy == "export it once more, with --partition streams"
    assert not (tmp_path / "cut").exists()
