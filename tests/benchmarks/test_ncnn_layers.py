"""The layers of a plan by ncnn, one at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ncnn", reason="needs pip install 'parnet-deploy[ncnn]'")

from benchmarks.ncnn_layers import LayerTime, kind_of_layer, layer_times, parameters_of, print_kinds
from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.load import load_engines, open_backend
from parnet_deploy.engines.ncnn import NcnnEngine, read_text
from tests.engines import toy_bundles


def test_every_layer_of_a_plan_is_timed_and_counted(tmp_path: Path) -> None:
    bundle = toy_bundles.make_bundle(tmp_path / "bundle", "whole", "fp32", BatchRange(min=1, opt=1, max=1))
    plan = open_plan(build_plan(bundle, tmp_path / "plan", backend="ncnn"))
    (engine,) = load_engines(plan, open_backend(plan)).values()
    assert isinstance(engine, NcnnEngine)
    text = read_text(plan.folder / plan.manifest.engines[0].file.name)
    image = np.zeros(plan.manifest.preprocessing.input_size, np.float32)
    layers = layer_times(engine.net, text, image, runs=2)
    engine.close()
    assert [layer.name for layer in layers] == [line.split()[1] for line in text.splitlines()[2:]]
    assert all(layer.ms > 0 for layer in layers[1:])
    convolutions = [layer for layer in layers if layer.kind.startswith("Convolution")]
    assert convolutions
    # The first: every output pixel of every weight.
    (line,) = (line for line in text.splitlines() if line.split()[1:2] == [convolutions[0].name])
    numbers = parameters_of(line)
    pixels = int(convolutions[0].kind.split()[-2])
    assert convolutions[0].gflop == pytest.approx(2 * numbers[6] * pixels / 1e9)
    assert {layer.gflop for layer in layers if layer not in convolutions and layer.kind != "InnerProduct"} <= {0.0}


def test_kinds_are_named_by_kernel_stride_and_pixels() -> None:
    numbers = parameters_of("Convolution c 1 1 a b 0=64 1=3 3=2 4=1 6=1728 -23310=1,2.0")
    assert numbers == {0: 64, 1: 3, 3: 2, 4: 1, 6: 1728}
    assert kind_of_layer("Convolution", numbers, 784) == "Convolution 3x3, stride 2, 784 pixels"
    assert kind_of_layer("Convolution", {1: 1}, 1) == "Convolution 1x1, stride 1, 1 pixels"
    assert kind_of_layer("Swish", {}, 784) == "Swish"


def test_kinds_are_printed_the_longest_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_kinds(
        [LayerTime("a", "Swish", 1.0, 0.0), LayerTime("b", "Convolution", 2.0, 0.3), LayerTime("c", "Swish", 0.5, 0.0)]
    )
    _, first, second, whole = (line.split() for line in capsys.readouterr().out.splitlines())
    assert first == ["Convolution", "1", "2.00", "57.1%", "150"]
    assert second == ["Swish", "2", "1.50", "42.9%"]
    assert whole == ["all", "3", "3.50"]
