"""The commands on good input: what they print, as JSON and for people."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.cli.main import app

COMMANDS = ["train", "import", "init", "models", "fuse", "export", "build", "verify", "run", "evaluate", "serve-bench"]
COMMANDS += ["inspect", "doctor", "plan", "pull", "hub-export"]


def test_every_command_is_here() -> None:
    assert sorted(command.name or "" for command in app.registered_commands) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(cli, command: str) -> None:
    found = cli(command, "--help")
    assert found.exit_code == 0
    assert f"Example: parnet-deploy {command}" in found.stdout


@pytest.mark.parametrize("artefact", ["fused", "plain", "whole", "split", "plan_plain", "plan_whole", "plan_split"])
def test_verify_against_the_checkpoint(cli, pipeline, artefact: str) -> None:
    found = cli("verify", pipeline["trained"], pipeline[artefact], "--data", "digits", "--per-stage", "--json")
    assert found.exit_code == 0
    assert found.json["passed"]
    assert [c["images"] for c in found.json["comparisons"]] == ["real (held-out digits)", "random"]
    for comparison in found.json["comparisons"]:
        assert comparison["logits"]["relative"] < 1e-5
        assert comparison["top1_agreement"] == 1.0


def test_verify_exits_1_beyond_the_tolerance(cli, pipeline) -> None:
    found = cli("verify", pipeline["trained"], pipeline["plan_split"], "--tolerance", "1e-12")
    assert found.exit_code == 1
    assert "DIFFERENT" in found.stdout
    assert "beyond 1e-12" in found.stderr


def test_verify_tells_another_network(cli, pipeline, tmp_path: Path) -> None:
    cli("init", "parnet_nano", "--seed", "4", "-o", tmp_path / "other.safetensors")
    assert cli("verify", tmp_path / "other.safetensors", pipeline["plan_whole"]).exit_code == 1


def test_fuse_prints_and_saves_the_difference(cli, pipeline, tmp_path: Path) -> None:
    found = cli("fuse", pipeline["trained"], "-o", tmp_path / "f.safetensors", "--json").json
    assert found["relative_difference"]["float64"] < 1e-12
    assert found["relative_difference"]["float32"] < 1e-5
    metrics = found["card"]["metrics"]
    assert metrics["fusion_relative_difference_float64"] == found["relative_difference"]["float64"]


def test_fusing_twice_changes_nothing(cli, pipeline, tmp_path: Path) -> None:
    found = cli("fuse", pipeline["fused"], "-o", tmp_path / "ff.safetensors")
    assert found.exit_code == 0
    assert "fused already" in found.stderr
    assert (tmp_path / "ff.safetensors").read_bytes() == pipeline["fused"].read_bytes()


def test_import_says_which_activation(cli, tmp_path: Path) -> None:
    source = Path(__file__).parents[1] / "data" / "tiny_silu.pth.tar"
    default = cli("import", source, "-o", tmp_path / "a.safetensors", "--json").json
    assert default["network"]["activation"] == "relu"
    assert "the file does not say" in default["origin"]["activation_reason"]
    chosen = cli("import", source, "-o", tmp_path / "b.safetensors", "--activation", "silu", "--no-ema", "--json").json
    assert chosen["network"]["activation"] == "silu"
    assert chosen["origin"]["weight_set"] == "state_dict"


def test_init_takes_classes_activation_and_resolution(cli, tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    card = cli(
        "init", "parnet_pico", "-o", path, "--classes", "5", "--activation", "relu", "--resolution", "96", "--json"
    ).json
    assert card["network"]["num_classes"] == 5
    assert card["network"]["activation"] == "relu"
    assert card["preprocessing"]["input_size"] == [3, 96, 96]


def test_init_is_reproducible(cli, pipeline, tmp_path: Path) -> None:
    cli("init", "parnet_nano", "--seed", "3", "-o", tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == pipeline["trained"].read_bytes()


def test_run_ranks_classes(cli, pipeline, tmp_path: Path) -> None:
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    found = cli("run", pipeline["plan_whole"], tmp_path, "--top", "4", "--json").json
    assert [Path(entry["image"]).name for entry in found] == ["0.png", "1.png", "2.png"]
    for entry in found:
        probabilities = [row["probability"] for row in entry["top"]]
        assert len(probabilities) == 4
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0 < sum(probabilities) <= 1 + 1e-12
    shown = cli("run", pipeline["plan_split"], tmp_path / "0.png")
    assert found[0]["top"][0]["label"] in shown.stdout
    assert shown.stdout.count("%") == 5


def test_evaluate_gives_the_same_predictions_everywhere(cli, pipeline) -> None:
    results = [cli("evaluate", pipeline[name], "digits", "--json").json for name in ("trained", "plan_split")]
    assert results[0]["predictions"] == results[1]["predictions"]
    assert results[0]["count"] == 359
    assert results[0]["top1"] <= results[0]["top5"]


def test_models_lists_every_variant(cli) -> None:
    rows = {row["name"]: row for row in cli("models", "--json").json}
    assert rows["parnet_l"]["parameters_training"] == 60_180_008
    assert rows["parnet_l"]["parameters_reparameterized"] == 54_914_824
    assert rows["parnet_l"]["gflop_fused"] == pytest.approx(26.64, rel=5e-3)
    assert rows["parnet_xl"]["gflop_fused"] == pytest.approx(41.42, rel=5e-3)
    assert {row["depth"] for row in rows.values()} == {12}
    assert rows["parnet_l"]["paper_top1"] == 77.66
    assert "parnet_l" in cli("models").stdout


@pytest.mark.parametrize("artefact", ["trained", "fused", "whole", "split", "plan_whole", "plan_split"])
def test_inspect(cli, pipeline, artefact: str) -> None:
    found = cli("inspect", pipeline[artefact])
    assert found.exit_code == 0
    assert "sha256" in found.stdout
    if artefact == "plan_split":
        assert "timeline of one measured request" in found.stdout
        assert all(lane in found.stdout for lane in ("cpu/0", "cpu/1", "join"))
        assert "not measured" in cli("inspect", pipeline[artefact], "--no-measure").stdout
    manifest = cli("inspect", pipeline[artefact], "--json").json["manifest"]
    assert manifest["network"]["planes"] == [16, 32, 64]


def test_doctor_says_what_this_machine_can_do(cli) -> None:
    found = cli("doctor", "--json").json
    rows = {row["what"]: row for row in found["capabilities"]}
    for what in ("train, import, fuse", "export", "build and run, onnxruntime on CPU", "serve-bench"):
        assert rows[what]["ready"]
        assert rows[what]["remedy"] is None
    for row in rows.values():
        assert row["ready"] == (row["missing"] == []) == (row["remedy"] is None)
    assert "CPUExecutionProvider" in found["machine"]["onnxruntime_providers"]
    assert cli("doctor").exit_code == 0


def test_doctor_without_a_gpu_says_so(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("parnet_deploy.engines.gpus._load", lambda: (None, "the driver is on holiday"))
    machine = cli("doctor", "--json").json["machine"]
    assert (machine["gpus"], machine["paths"], machine["cuda_driver"]) == ([], [], None)
    assert machine["gpu_problem"] == "the driver is on holiday"
    assert machine["tensorrt"]["reason"]
    assert machine["cuda_adapter"]["reason"]
    shown = cli("doctor")
    assert shown.exit_code == 0
    assert "GPU: none (the driver is on holiday)" in shown.stdout
    output = tmp_path / "link.json"
    refused = cli("doctor", "--links", "-o", output)
    assert refused.exit_code == 2
    assert "no GPU whose links could be measured (the driver is on holiday)" in refused.stderr
    assert "remedy:" in refused.stderr
    assert refused.stdout == ""
    assert not output.exists()
    alone = cli("doctor", "-o", output)
    assert alone.exit_code == 2
    assert "add --links" in alone.stderr


def test_doctor_names_the_packages_that_are_used(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from parnet_deploy.errors import MissingDependencyError

    def missing(*_: object) -> None:
        raise MissingDependencyError("none here", remedy="pip install it")

    monkeypatch.setattr("parnet_deploy.runtime.cuda.driver.find_spec", lambda _: True)
    monkeypatch.setattr("parnet_deploy.runtime.cuda.inventory.load_tensorrt", missing)
    machine = cli("doctor", "--json").json["machine"]
    assert (machine["cuda_adapter"]["name"], machine["cuda_adapter"]["reason"]) == (
        "pycuda",
        "preferred to cuda-bindings",
    )
    assert machine["tensorrt"] == {"name": None, "version": None, "reason": "none here", "remedy": "pip install it"}
    monkeypatch.setattr("parnet_deploy.runtime.cuda.driver.find_spec", lambda _: None)
    shown = cli("doctor").stdout
    assert "TensorRT: none: none here; pip install it" in shown
    assert "CUDA adapter: none: no package" in shown
    assert "pip install 'parnet-deploy[cuda]'" in shown


def test_doctor_says_what_is_missing(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxsim" else find_spec(name, *rest)
    )
    rows = {row["what"]: row for row in cli("doctor", "--json").json["capabilities"]}
    assert rows["export"]["missing"] == ["onnxsim"]
    assert rows["export"]["remedy"] == "pip install 'parnet-deploy[author]'"
    assert "pip install 'parnet-deploy[author]'" in cli("doctor").stdout


def test_help_and_target_side_import_no_torch() -> None:
    code = (
        "import sys\n"
        "import parnet_deploy.runtime, parnet_deploy.engines, parnet_deploy.bench, parnet_deploy.cli.main\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'timm', 'sklearn', 'matplotlib', 'mlperf_loadgen'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from parnet_deploy.cli.main import run_app\n"
        "assert run_app(['--help']) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "[]"


def test_a_plan_runs_where_torch_cannot_be_imported(pipeline, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (10, 200, 30)).save(tmp_path / "x.png")
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError('No module named torch', name='torch')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "from parnet_deploy.cli.main import run_app\n"
        f"plan, bundle = {str(pipeline['plan_split'])!r}, {str(pipeline['split'])!r}\n"
        f"assert run_app(['run', plan, {str(tmp_path / 'x.png')!r}]) == 0\n"
        f"assert run_app(['build', bundle, '-o', {str(tmp_path / 'plan')!r}]) == 0\n"
        "assert run_app(['verify', bundle, plan]) == 0\n"
        f"golden, report = {str(tmp_path / 'golden.json')!r}, {str(tmp_path / 'report')!r}\n"
        "assert run_app(['verify', bundle, '--write-golden', golden]) == 0\n"
        "assert run_app(['verify', plan, '--golden', golden, '-o', report]) == 0\n"
        "assert run_app(['inspect', plan]) == 0\n"
        f"assert run_app(['fuse', {str(pipeline['trained'])!r}, '-o', {str(tmp_path / 'f.safetensors')!r}]) == 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch is not installed" in done.stderr
    assert "pip install 'parnet-deploy[author]'" in done.stderr
