"""The table of what is measured: complete, without clashes, and made of contenders that exist."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest

from benchmarks.__main__ import best_results
from benchmarks.cases import BASELINE, CUDA_BASELINE, Case, cases_of, contenders_for

FULL = [case for case, _ in cases_of("full")]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_contenders_have_names_of_their_own_and_a_module(case: Case, device: str) -> None:
    contenders = contenders_for(case, device)
    assert len({contender.slug for contender in contenders}) == len(contenders)
    assert all(find_spec(f"benchmarks.contenders.{contender.adapter}") for contender in contenders)
    if device == "cpu":
        assert (BASELINE in [contender.name for contender in contenders]) == case.is_parnet
    if device == "cpu" or case.is_parnet:
        assert contenders[0].role == "peak"


def test_on_a_gpu_contenders_are_every_backend_and_torch_with_a_graph_and_without() -> None:
    contenders = contenders_for(FULL[0], "cuda")
    assert CUDA_BASELINE in [contender.name for contender in contenders]
    ours = [contender.options for contender in contenders if contender.role == "ours"]
    assert {(entry["backend"], entry["streams"], entry["graphs"]) for entry in ours} == set(
        product(
            ("tensorrt", "onnxruntime-cuda", "torch"),
            ("whole", "one stream", "three streams"),
            ("no graph", "graph"),
        )
    )
    # Requests take a millisecond there.
    (on_gpu,), (here,) = ({effort for _, effort in cases_of("tiny", device=device)} for device in ("cuda", "cpu"))
    assert on_gpu.least_requests > here.least_requests


def test_every_size_of_every_network_is_measured_the_telling_ones_first() -> None:
    networks = ("parnet_s", "parnet_m", "parnet_l", "parnet_xl", "resnet34", "resnet50")
    assert {(case.network, case.pixels, case.batch) for case in FULL} == set(product(networks, (224, 320), (1, 8, 32)))
    assert len(FULL) == len({case.name for case in FULL})
    assert [(case.pixels, case.batch) for case in FULL[:6]] == [(224, 1)] * 6


def test_networks_can_be_chosen() -> None:
    assert {case.network for case, _ in cases_of("full", ("parnet_s",))} == {"parnet_s"}
    with pytest.raises(ValueError, match="no preset"):
        cases_of("nothing")


def test_our_plans_are_of_every_backend_whole_and_split() -> None:
    ours = [contender for contender in contenders_for(FULL[0], "cpu") if contender.role == "ours"]
    assert {(entry.options["backend"], entry.options["partition"]) for entry in ours} == set(
        product(("onnxruntime", "openvino", "ncnn"), ("whole", "streams"))
    )


def test_the_quick_preset_is_what_decides() -> None:
    cases = [case for case, _ in cases_of("quick")]
    assert [(case.network, case.pixels, case.batch) for case in cases] == [("parnet_l", 224, 1), ("parnet_s", 224, 1)]
    for case in cases:
        names = [contender.name for contender in contenders_for(case, "cpu", "quick")]
        assert names == [
            "matrix product",
            "eager, unfused",
            BASELINE,
            "parnet-deploy, onnxruntime, whole",
            "parnet-deploy, onnxruntime, split",
            "parnet-deploy, openvino, whole",
            "parnet-deploy, ncnn, whole",
        ]


def test_the_page_tells_of_the_most_thorough_results(tmp_path: Path) -> None:
    for name in ("a-cpu", "a-cpu-quick", "a-cpu-tiny", "b-cpu-tiny", "b-cpu-quick", "c-cpu-tiny"):
        (tmp_path / f"{name}.json").touch()
    assert [path.stem for path in best_results(tmp_path)] == ["a-cpu", "b-cpu-quick", "c-cpu-tiny"]
