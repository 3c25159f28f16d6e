"""`build --backend` with the backends that take a stage's ONNX file as it is."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep to the processor also where there are GPUs."""
    monkeypatch.setattr("parnet_deploy.engines.torch.list_gpus", lambda: ())
    monkeypatch.setattr("parnet_deploy.engines.gpus.list_gpus", lambda: ())


@pytest.mark.parametrize("bundle", ["whole", "split", "plain"])
def test_a_plan_of_torch_is_within_the_tolerance(cli, pipeline, tmp_path: Path, bundle: str) -> None:
    built = cli("build", pipeline[bundle], "-o", tmp_path / "plan", "--backend", "torch", "--threads", "2")
    assert built.exit_code == 0
    assert "plan: torch 2." in built.stdout
    compared = cli("verify", pipeline["trained"], tmp_path / "plan", "--json").json
    assert compared["passed"]
    assert 0 < max(row["logits"]["relative"] for row in compared["comparisons"]) <= 2e-5
    inspected = cli("inspect", tmp_path / "plan")
    assert inspected.exit_code == 0
    assert "with torch 2." in inspected.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("torch", "--devices", "0"), "no GPU here"),
        (("torch", "--tf32"), "only GPUs have TF32"),
        (("torch", "--refit"), "takes no TensorRT options"),
        (("onnxruntime", "--tf32"), "backend 'onnxruntime' takes no TF32"),
        (("ncnn", "--tf32"), "remedy: pass --backend tensorrt or onnxruntime-cuda or torch, or leave that out"),
        (("onnxruntime", "--memory-factor", "2"), "takes no memory factor"),
        (("ncnn", "--memory-factor", "0.5"), "Invalid value for '--memory-factor'"),
        (("onnxruntime-cuda", "--refit"), "takes no TensorRT options"),
        pytest.param(
            ("onnxruntime-cuda",),
            "overwrite each other",
            marks=pytest.mark.skipif(HAS_CUDA, reason="the package for GPUs is installed here"),
        ),
    ],
)
def test_what_does_not_go_together_is_refused(cli, pipeline, tmp_path: Path, arguments: tuple, message: str) -> None:
    built = cli("build", pipeline["whole"], "-o", tmp_path / "plan", "--backend", *arguments)
    assert built.exit_code == 2
    assert message in built.stderr
    assert "Traceback" not in built.stderr
    assert not (tmp_path / "plan").exists()


def test_ncnn_takes_as_much_memory_as_it_is_told(cli, pipeline, tmp_path: Path) -> None:
    """All convolutions of stride 1 are hinted at F(2,3), or none."""
    from parnet_deploy.engines.ncnn import read_text

    hints = {}
    for factor in ("1", "4"):
        plan = tmp_path / factor
        built = cli("build", pipeline["whole"], "-o", plan, "--backend", "ncnn", "--memory-factor", factor, "--json")
        assert built.json["build_options"] == {"memory_factor": float(factor)}
        (engine,) = plan.glob("*.ncnn")
        hints[factor] = read_text(engine).count("-23330=4,3,6,6,")
        compared = cli("verify", pipeline["trained"], plan, "--json").json
        assert max(row["logits"]["relative"] for row in compared["comparisons"]) <= 2e-5
    assert hints["1"] > 0 == hints["4"]
    assert "memory_factor 4.0" in cli("inspect", tmp_path / "4").stdout


def test_help_names_every_backend(cli) -> None:
    from parnet_deploy.engines import BACKEND_NAMES

    text = " ".join(cli("build", "--help").stdout.replace("│", " ").split())
    assert all(name in text for name in BACKEND_NAMES)


@pytest.mark.skipif(HAS_CUDA, reason="the package for GPUs is installed here")
def test_doctor_tells_the_packages_of_onnx_runtime_apart(cli) -> None:
    rows = {row["what"]: row for row in cli("doctor", "--json").json["capabilities"]}
    assert rows["build and run, torch on CPU and GPUs"]["ready"]
    row = rows["build and run, onnxruntime-cuda on GPUs"]
    assert row["missing"] == ["onnxruntime-gpu"]
    assert row["remedy"] == "pip install 'parnet-deploy[onnxruntime-gpu]'"
