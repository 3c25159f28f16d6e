"""Every example that a command's help shows is run as it stands, on small artefacts under the names that it uses."""

from __future__ import annotations

import importlib.util
import inspect
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.folders import open_card
from parnet_deploy.cli.main import app
from tests.weights.server import ReleaseServer

# What the names in the examples stand for: an entry of `pipeline`, a file of tests/data, or what `folder` makes.
PIPELINE = {
    "parnet_l.safetensors": "trained",
    "parnet_l_fused.safetensors": "fused",
    "bundle": "split",
    "bundle_split": "split",
    "bundle_fp32": "whole",
    "plan": "plan_split",
    "plain_plan": "plan_plain",
    "fused_plan": "plan_whole",
    "split_plan": "plan_split",
}
DATA = {"planes_160_320_640_2560.pth.tar": "tiny_relu.pth.tar"}

# Written, not read, by the example that names them.
OUTPUT_OPTIONS = {"-o", "--output", "--write-golden", "--junit", "--trace"}

# Shorter runs; the last of an option that is given twice counts.
SHORTENED = {
    "serve-bench": ["--rounds", "1", "--duration", "0.001", "--min-queries", "4"],
    "train": ["--epochs", "1"],
    # What random weights answer is no loss.
    "quantize": ["--images", "16", "--method", "min-max", "--max-drop", "100"],
    "tune": ["--budget", "1", "--backend", "onnxruntime", "--no-cache", "--no-crossover"],
}

# Why an example is parsed and not run here.
PARSED_ONLY = {
    "doctor --links": "measures GPUs; run on a driver in host memory by tests/cuda_sim/inside",
    "import hf-hub:": "asks the Hugging Face Hub; run against one on this machine by tests/models/test_hub.py",
}


def examples() -> Iterator[list[str]]:
    """Yield the words after `parnet-deploy` of every example."""
    for command in app.registered_commands:
        assert command.callback is not None
        for text in re.findall(r"^Example: parnet-deploy (.+)$", inspect.getdoc(command.callback) or "", re.MULTILINE):
            yield shlex.split(text)


EXAMPLES = list(examples())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, without this machine's caches and proxies."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("parnet_deploy.engines.tensorrt.list_gpus", lambda: ())
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def provide(name: str, pipeline: dict[str, Path], data_dir: Path, cli: Callable[..., object]) -> None:
    """Make what an example reads, under its name."""
    if name in PIPELINE:
        source = pipeline[PIPELINE[name]]
        if source.is_dir():
            shutil.copytree(source, name)
        else:
            shutil.copy(source, name)
            card = open_card(source).manifest
            weights = card.weights.model_copy(update={"name": name})
            write_manifest(Path(name).with_suffix(".json"), card.model_copy(update={"weights": weights}))
    elif name in DATA:
        shutil.copy(data_dir / DATA[name], name)
    elif name == "cat.jpg":
        _photograph(Path(name))
    elif name == "holiday/":
        Path(name).mkdir()
        _photograph(Path(name) / "beach.jpg")
    elif name == "bundle_int8":
        quantize = ("quantize", pipeline["whole"], "--data", "digits", *SHORTENED["quantize"])
        assert cli(*quantize, "-o", name).exit_code == 0  # type: ignore[attr-defined]
    elif name == "plan.golden.json":
        assert cli("verify", "plan", "--write-golden", name).exit_code == 0  # type: ignore[attr-defined]


def _photograph(path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("china.jpg")).save(path)


def test_every_command_has_an_example() -> None:
    assert {words[0] for words in EXAMPLES} == {command.name for command in app.registered_commands}


@pytest.mark.usefixtures("folder", "one_thread")
@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_example_runs(words: list[str], cli, pipeline: dict[str, Path], data_dir: Path) -> None:
    if any(" ".join(words).startswith(example) for example in PARSED_ONLY):
        group = typer.main.get_command(app)
        group.commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
        return
    if "tensorrt" in words and importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed: pip install 'parnet-deploy[tensorrt-rtx]'")
    for before, word in pairwise(words):
        if before not in OUTPUT_OPTIONS:
            provide(word, pipeline, data_dir, cli)
    # 60 million random parameters tell no more than these.
    words = ["parnet_nano" if word == "parnet_l" else word for word in words]
    with ReleaseServer((data_dir / "tiny_relu.pth.tar").read_bytes()) as mirror:
        words = [mirror.url if word.startswith("https://mirror") else word for word in words]
        if words[0] == "pull" and "--from" not in words:
            words += ["--from", mirror.url]
        done = cli(*words, *SHORTENED.get(words[0], []))
    assert done.exit_code == 0, done.stderr
    assert done.stdout
    written = [word for before, word in pairwise(words) if before in OUTPUT_OPTIONS]
    assert all(Path(name).exists() for name in written)
