"""The page: what was promised and whether it holds, what was left out, and whether the machine was quiet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cases import BASELINE
from benchmarks.records import CaseResult, ContenderResult, Results, with_sitting
from benchmarks.report import write_report

MakeResults = Callable[..., Results]


def page_of(folder: Path, *results: Results) -> str:
    page = folder / "docs" / "benchmarks.md"
    page.parent.mkdir()
    write_report(results, [f"machine-{index}" for index in range(len(results))], page)
    return page.read_text(encoding="utf-8")


def test_the_page_tells_what_was_measured(make_results: MakeResults, tmp_path: Path) -> None:
    text = page_of(tmp_path, make_results())
    assert "## Some CPU (sve), 2 cores" in text
    assert "| **parnet-deploy, ncnn, whole** | 80.0 (72.0 to 88.0) | 1.25 (1.14 to 1.39) | 250 | 25% |" in text
    assert "ONNX Runtime, plain export, fused | 100.0 (100.0 to 100.0) | 1 | 200 | 20% |" in text
    assert "parnet_l, 224 px, batch 8" in text
    assert "| resnet50 (IMAGENET1K_V2) | 80.86 | 25.0 | ONNX Runtime, plain export |" in text
    assert "- ncnn by pnnx, fused: no pnnx (parnet_l 224 px b1)" in text
    assert "Not a quiet machine" not in text
    pictures = sorted(path.name for path in (tmp_path / "docs" / "benchmarks").iterdir())
    assert pictures == ["machine-0-accuracy.png", "machine-0-latency.png"]
    assert all(f"(benchmarks/{name})" in text for name in pictures)
    assert (tmp_path / "docs" / "benchmarks" / pictures[0]).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("ours_ms", "best", "verdict"), [(80.0, "ncnn", "yes"), (98.0, "ncnn", "no"), (130.0, "onnxruntime", "no")]
)
def test_promises_are_held_against_the_measurement(
    make_results: MakeResults, tmp_path: Path, ours_ms: float, best: str, verdict: str
) -> None:
    lines = page_of(tmp_path, make_results(ours_ms)).splitlines()
    (promised,) = [line for line in lines if line.endswith(f"| 1.03 | {verdict} |")]
    assert promised.startswith(f"| parnet_l: parnet-deploy, {best}, whole | ONNX Runtime, plain export, fused | ")
    # By the same engine the ratio is told, and nothing is promised.
    same = [line for line in lines if line.startswith("| parnet_l: parnet-deploy, onnxruntime, whole ")]
    assert len(same) == 1
    assert same[0].endswith("| 1.01 (1.01 to 1.01) |  |  |" if best == "ncnn" else "| 1.03 | no |")


def test_what_is_promised_of_int8(
    make_results: MakeResults, make_entry: Callable[..., ContenderResult], tmp_path: Path
) -> None:
    results = make_results()
    sitting = results.sittings[0]
    first = sitting.cases[0]
    quantized = make_entry("parnet-deploy, int8", "ours", [30.0, 30.0, 30.0], precision="int8")
    eager = make_entry("eager, unfused", "reference", [120.0, 120.0, 180.0])
    case = first.model_copy(update={"contenders": (*first.contenders, quantized, eager)})
    quantised = sitting.model_copy(update={"cases": (case, *sitting.cases[1:])})
    lines = page_of(tmp_path, results.model_copy(update={"sittings": (quantised,)})).splitlines()
    assert f"| parnet_l: parnet-deploy, int8 (int8) | {BASELINE} | 3.33 (3.33 to 3.33) | 3.00 | yes |" in lines
    assert "| parnet_l: parnet-deploy, int8 (int8) | eager, unfused | 4.00 (4.00 to 6.00) | 5.00 | no |" in lines
    # What is promised of float32 is held by float32.
    assert any(line.startswith("| parnet_l: parnet-deploy, ncnn, whole |") for line in lines)


def test_a_busy_machine_is_said_to_be_one(make_results: MakeResults, tmp_path: Path) -> None:
    assert "**Not a quiet machine**: its load was 7.5" in page_of(tmp_path, make_results(load=7.5))


def test_every_machine_has_a_section(make_results: MakeResults, tmp_path: Path) -> None:
    assert page_of(tmp_path, make_results(), make_results()).count("## Some CPU (sve), 2 cores") == 2


def test_what_is_measured_again_takes_the_place_of_what_was(
    make_results: MakeResults, make_case: Callable[..., CaseResult], tmp_path: Path
) -> None:
    earlier = make_results()
    first, resnet, batches = earlier.sittings[0].cases
    anew = make_results(60.0).sittings[0].cases[0]
    larger = make_case(*anew.contenders[1:], pixels=320)
    sitting = earlier.sittings[0].model_copy(update={"created": "2026-02-03T00:00:00+00:00", "cases": (larger, anew)})
    results = with_sitting(earlier, "cpu", sitting)
    assert [old.cases for old in results.sittings] == [(resnet, batches), (larger, anew)]
    assert results.cases == (anew, resnet, batches, larger)
    assert first not in results.cases

    text = page_of(tmp_path, results)
    assert "\n- 2026-01-02 by parnet-deploy 0: 224 px, batch 1: resnet50; 224 px, batch 8: parnet_l\n" in text
    assert "\n- 2026-02-03 by parnet-deploy 0: 320 px, batch 1: parnet_l; 224 px, batch 1: parnet_l\n" in text
    assert text.count("s, 16 GiB, p; onnxruntime 1:") == 1
    assert "| **parnet-deploy, ncnn, whole** | 60.0 (54.0 to 66.0) |" in text

    # A sitting of which nothing is left goes.
    again = earlier.sittings[0].model_copy(update={"created": "2026-03-04T00:00:00+00:00"})
    assert with_sitting(earlier, "cpu", again).sittings == (again,)
    assert with_sitting(None, "cpu", again).sittings == (again,)


def test_on_a_gpu_the_best_in_float16_is_compared_with_eager_in_a_graph(gpu_results: Results, tmp_path: Path) -> None:
    lines = page_of(tmp_path, gpu_results).splitlines()
    assert "## Some GPU, Some CPU (sve)" in lines
    assert any("2 rounds in turn. A float16 matrix product reached 500000 GFLOP/s" in line for line in lines)
    assert any("| on the device, ms | against eager, channels_last, graph |" in line for line in lines)
    (ours,) = (line for line in lines if line.startswith("| **parnet-deploy, torch, three streams, graph**"))
    assert ours.startswith(
        "| **parnet-deploy, torch, three streams, graph** (fp16) | 0.850 (0.800 to 0.900) |  | 1.42 "
    )
    (eager,) = (line for line in lines if line.startswith("| CUDA eager"))
    assert "(fp16) | 1.20 (1.20 to 1.20) | 1.13 | 1 | 16667 | 3% |" in eager
    assert any(line.startswith("| parnet_l, 224 px, batch 8 | 1.20 (CUDA eager, fused") for line in lines)
    # A load of 1.4 is little for 16 cores, and one point is no picture.
    assert not any("quiet machine" in line or "table 2" in line for line in lines)


def test_without_its_baseline_nothing_is_compared(gpu_results: Results, tmp_path: Path) -> None:
    sitting = gpu_results.sittings[0]
    case = sitting.cases[0].model_copy(update={"contenders": sitting.cases[0].contenders[:2]})
    alone = gpu_results.model_copy(update={"sittings": (sitting.model_copy(update={"cases": (case,)}),)})
    lines = page_of(tmp_path, alone).splitlines()
    assert not any("against" in line for line in lines if line.startswith("| contender"))
    assert any(line.startswith("| **parnet-deploy, torch, three streams, graph** (fp16) | 0.850 ") for line in lines)
