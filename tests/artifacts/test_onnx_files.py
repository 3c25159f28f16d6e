"""External weights are found wherever ONNX allows a tensor, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from parnet_deploy.artifacts.onnx_files import refuse_external_data
from parnet_deploy.errors import ArtifactError


def tensor(name: str, *, is_external: bool) -> TensorProto:
    """Return a tensor, as it is or with its data elsewhere."""
    made = numpy_helper.from_array(np.ones((2, 3), np.float32), name)
    if is_external:
        made.ClearField("raw_data")
        made.data_location = TensorProto.EXTERNAL
        entry = made.external_data.add()
        entry.key, entry.value = "location", "elsewhere.bin"
    return made


def model(place: str, *, is_external: bool) -> onnx.ModelProto:
    """Return a model with a tensor in a given place."""
    weight = tensor("w", is_external=is_external)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])
    constant = helper.make_node("Constant", [], ["w"], value=weight)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    if place == "initializer":
        graph = helper.make_graph([add], "g", [x], [y], [weight])
    elif place == "constant":
        graph = helper.make_graph([constant, add], "g", [x], [y])
    else:
        inner = helper.make_graph([constant, helper.make_node("Identity", ["w"], ["z"])], "inner", [], [y])
        outer = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
        graph = helper.make_graph([outer], "g", [x], [y])
    return helper.make_model(graph)


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
def test_external_data_is_found(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(place, is_external=False).SerializeToString())
    refuse_external_data(path)
    path.write_bytes(model(place, is_external=True).SerializeToString())
    with pytest.raises(ArtifactError, match="keeps weights in another file") as caught:
        refuse_external_data(path)
    assert caught.value.where == str(path)
    refuse_external_data(path, "elsewhere.bin")
    with pytest.raises(ArtifactError, match="keeps weights in another file"):
        refuse_external_data(path, "nowhere.bin")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
def test_what_is_no_onnx_is_left_to_others(tmp_path: Path, data: bytes, cut: int) -> None:
    path = tmp_path / "m.onnx"
    for content in (data, b"", b"\x3a" + b"\xff" * 12, model("branch", is_external=False).SerializeToString()[:cut]):
        path.write_bytes(content)
        try:
            refuse_external_data(path)
        except ArtifactError as error:
            assert "another file" in str(error)  # noqa: PT017 (bytes may spell it by chance)
