"""The Hub's layout both ways: the same logits to the bit, through timm itself, and every kind of foreign folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from parnet_deploy.artifacts.files import sha256_of_file
from parnet_deploy.artifacts.schemas import Card, FileRecord, NetworkConfig, Preprocessing
from parnet_deploy.errors import ArtifactError, CheckpointError, NetworkError, OutputExistsError, ParNetError
from parnet_deploy.fusion import fuse
from parnet_deploy.models.checkpoints import load_checkpoint, save_checkpoint
from parnet_deploy.models.hub import export_hub_folder, import_hub_folder
from parnet_deploy.models.hub_config import HubConfig, config_of_card, network_of_config
from parnet_deploy.models.initialization import create_random_network
from parnet_deploy.models.parnet import Form, ParNet
from parnet_deploy.models.variants import VARIANTS, architecture_of
from tests.golden import GOLDEN
from tests.models.fake_hub import COMMIT, FakeHub

NANO = VARIANTS["parnet_nano"]


def save(path: Path, model: ParNet, preprocessing: Preprocessing = NANO.preprocessing, **options: Any) -> Card:
    """Save a checkpoint under the name that its network has."""
    return save_checkpoint(path, model, architecture=architecture_of(model.cfg), preprocessing=preprocessing, **options)


def timm_model(folder: Path, **changes: Any) -> ParNet:
    """Let timm build and load the model of a folder."""
    model: ParNet = timm.create_model(f"local-dir:{folder}", pretrained=True, **changes).eval()
    return model


def logits(model: torch.nn.Module, cfg: NetworkConfig) -> torch.Tensor:
    """Return what a network says of two random images of a small size."""
    side = 2 * cfg.reduction
    images = torch.randn(2, cfg.in_chans, side, side, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return model(images)


def logits_of(checkpoint: Path, cfg: NetworkConfig) -> torch.Tensor:
    """Return what a checkpoint says; its weights lie as in the file, and elsewhere may sum to other last bits."""
    return logits(load_checkpoint(checkpoint), cfg)


# Those of the paper's sizes take seconds each.
SIZES = [
    pytest.param(name, marks=[pytest.mark.slow] if GOLDEN[name].parameters_training > 2_000_000 else [])
    for name in VARIANTS
]


@pytest.mark.parametrize("name", SIZES)
def test_every_variant_is_the_same_to_the_bit_through_timm_and_back(name: str, tmp_path: Path) -> None:
    variant = VARIANTS[name]
    model = create_random_network(variant.network, seed=7)
    checkpoint, folder, back = tmp_path / "a.safetensors", tmp_path / "hub", tmp_path / "b.safetensors"
    card = save(checkpoint, model, variant.preprocessing)
    config = export_hub_folder(checkpoint, folder)
    assert (config.architecture, config.model_args) == (name, {})
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert sha256_of_file(folder / "model.safetensors") == card.weights.sha256
    assert torch.equal(logits(timm_model(folder), variant.network), logits(model, variant.network))
    made = import_hub_folder(folder, back, origin={"made_by": "a test"})
    assert torch.equal(logits_of(back, variant.network), logits_of(checkpoint, variant.network))
    assert (made.architecture, made.network, made.preprocessing) == (name, card.network, card.preprocessing)
    assert made.weights.sha256 == card.weights.sha256
    assert made.parent is not None
    assert (made.parent.name, made.parent.sha256) == ("model.safetensors", card.weights.sha256)
    assert made.origin == {"made_by": "a test"}


@pytest.mark.parametrize("form", ["training", "fused"])
@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({}, "parnet_nano"),
        ({"activation": "relu"}, "parnet_nano"),
        ({"num_classes": 3}, "parnet_nano"),
        ({"in_chans": 1, "num_classes": 7}, "parnet_nano"),
        ({"in_chans": 2}, "parnet_nano"),
        ({"in_chans": 4, "drop_rate": 0.5}, "parnet_nano"),
        ({"last_planes": 96}, "parnet"),
        ({"planes": (16, 24, 48), "num_blocks": (1, 2, 1), "stem": (8, 16)}, "parnet"),
        ({"planes": (16,), "num_blocks": (2,)}, "parnet"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value) or "as it is",
)
def test_what_differs_from_the_variant_is_said_to_timm(
    form: Form, changes: dict[str, Any], architecture: str, tmp_path: Path
) -> None:
    cfg = NANO.network.model_copy(update=changes)
    trained = create_random_network(cfg, seed=1)
    model = trained if form == "training" else fuse(trained)
    pre = NANO.preprocessing.model_copy(update={"input_size": (cfg.in_chans, 32, 48), "interpolation": "bicubic"})
    labels = tuple(f"label {i}" for i in range(cfg.num_classes))
    card = save(tmp_path / "a.safetensors", model, pre, label_names=labels)
    export_hub_folder(tmp_path / "a.safetensors", tmp_path / "hub")
    through_timm = timm_model(tmp_path / "hub")
    assert (through_timm.cfg, through_timm.form) == (cfg, form)
    assert torch.equal(logits(through_timm, cfg), logits(model, cfg))
    data = timm.data.resolve_model_data_config(through_timm)
    assert tuple(data["input_size"]) == pre.input_size
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", pre.crop_pct)
    assert tuple(through_timm.pretrained_cfg["label_names"]) == labels
    back = import_hub_folder(tmp_path / "hub", tmp_path / "b.safetensors", origin={})
    assert torch.equal(logits_of(tmp_path / "b.safetensors", cfg), logits_of(tmp_path / "a.safetensors", cfg))
    assert back.architecture == architecture
    assert (back.network, back.form, back.preprocessing) == (cfg, form, pre)
    assert (back.label_names, back.weights.sha256) == (labels, card.weights.sha256)


def test_the_released_small_network_is_a_variant_with_other_planes() -> None:
    released = NetworkConfig(
        stem=(64, 92), planes=(92, 192, 384), num_blocks=(4, 5, 5), last_planes=1280, activation="relu"
    )
    config = config_of_card(card_of(released, Preprocessing()))
    assert config.architecture == "parnet_s"
    assert config.model_args == {"stem": [64, 92], "planes": [92, 192, 384], "activation": "relu"}


def card_of(cfg: NetworkConfig, pre: Preprocessing, form: Form = "training", **fields: Any) -> Card:
    """Return a card without weights behind it."""
    weights = FileRecord(name="a.safetensors", sha256="0" * 64, size_bytes=1)
    return Card(architecture="parnet", network=cfg, form=form, preprocessing=pre, weights=weights, **fields)


@st.composite
def cards(draw: st.DrawFn) -> Card:
    """Draw a network, its form and how its images are prepared."""
    streams = draw(st.integers(1, 4))
    planes = tuple(draw(st.lists(st.integers(1, 9).map(lambda n: 4 * n), min_size=streams, max_size=streams)))
    cfg = NetworkConfig(
        stem=(*draw(st.lists(st.integers(1, 70), max_size=3)), planes[0]),
        stem_stride=draw(st.sampled_from([1, 2])),
        planes=planes,
        num_blocks=tuple(draw(st.lists(st.integers(1, 7), min_size=streams, max_size=streams))),
        last_planes=draw(st.integers(1, 3000)),
        last=draw(st.sampled_from(["downsampling", "conv1x1"])),
        activation=draw(st.sampled_from(["silu", "relu"])),
        in_chans=draw(st.integers(1, 5)),
        num_classes=draw(st.integers(1, 1001)),
        drop_rate=draw(st.floats(0, 1, exclude_max=True)),
    )
    numbers = st.tuples(*[st.floats(0.01, 9)] * 3)
    sides = [cfg.reduction * draw(st.integers(1, 9)) for _ in range(2)]
    pre = Preprocessing(
        input_size=(cfg.in_chans, *sides),
        mean=draw(numbers),
        std=draw(numbers),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "nearest"])),
        crop_pct=draw(st.floats(0.01, 1)),
    )
    return card_of(cfg, pre, draw(st.sampled_from(["training", "fused"])))


@settings(max_examples=150)
@given(card=cards())
def test_every_network_survives_the_way_through_config_json(card: Card) -> None:
    text = config_of_card(card).model_dump_json(exclude_none=True)
    found = network_of_config(HubConfig.model_validate_json(text))
    assert found == (card.network, card.form, card.preprocessing)


@pytest.mark.parametrize("changes", [{}, {"num_classes": 7}, {"num_classes": 7, "in_chans": 1, "activation": "relu"}])
def test_what_timm_saves_is_read(changes: dict[str, Any], tmp_path: Path) -> None:
    model: ParNet = timm.create_model("parnet_nano", **changes).eval()
    timm.models.save_for_hf(model, str(tmp_path / "hub"), safe_serialization=True)
    card = import_hub_folder(tmp_path / "hub", tmp_path / "a.safetensors", origin={})
    assert card.network == model.cfg
    assert card.architecture == "parnet_nano"
    assert torch.equal(logits(timm_model(tmp_path / "hub"), model.cfg), logits(model, model.cfg))
    found = load_checkpoint(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("form", ["training", "fused"])
def test_timm_adapts_the_channels_and_the_classes(form: Form, tmp_path: Path) -> None:
    trained = create_random_network(NANO.network, seed=2)
    model = trained if form == "training" else fuse(trained)
    save(tmp_path / "a.safetensors", model)
    export_hub_folder(tmp_path / "a.safetensors", tmp_path / "hub")
    grey = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        wanted, found = model(grey.expand(-1, 3, -1, -1)), timm_model(tmp_path / "hub", in_chans=1)(grey)
    # Three equal channels, summed in another order.
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    other = timm_model(tmp_path / "hub", num_classes=5)
    assert other.head.fc.out_features == 5
    assert torch.equal(
        other.last.state_dict()["conv.weight" if form == "fused" else "conv.conv.weight"],
        model.last.state_dict()["conv.weight" if form == "fused" else "conv.conv.weight"],
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the Hub's layout, of a small network of three classes."""
    model = create_random_network(NANO.network.model_copy(update={"num_classes": 3}), seed=3)
    save(tmp_path / "a.safetensors", model, label_names=("a", "b", "c"))
    export_hub_folder(tmp_path / "a.safetensors", tmp_path / "hub")
    return tmp_path / "hub"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change `config.json`."""
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def refused(folder: Path, kind: type[ParNetError], message: str) -> ParNetError:
    """Import, and expect one error and nothing left behind."""
    output = folder.parent / "out" / "b.safetensors"
    with pytest.raises(kind, match=message) as caught:
        import_hub_folder(folder, output, origin={})
    assert not output.parent.exists()
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda c: c.update(architecture="resnet50"), NetworkError, "no model 'resnet50'"),
        (lambda c: c.update(architecture="parnet_nano.untrained"), NetworkError, "no model"),
        (lambda c: c.pop("architecture"), ArtifactError, "field 'architecture': Field required"),
        (lambda c: c.update(architecture=7), ArtifactError, "field 'architecture'"),
        (lambda c: c.pop("pretrained_cfg"), ArtifactError, "field 'pretrained_cfg': Field required"),
        (lambda c: c.update(num_classes=0), ArtifactError, "field 'num_classes'"),
        (lambda c: c.update(num_classes=4), NetworkError, "classes disagree: 3 and 4"),
        (lambda c: c["pretrained_cfg"].update(num_classes=4), NetworkError, "classes disagree: 3 and 4"),
        (lambda c: c["model_args"].update(num_classes=4), NetworkError, "classes disagree: 3 and 4"),
        (lambda c: c.update(label_names=["a"]), NetworkError, "classes and label names disagree: 1 and 3"),
        (lambda c: c.update(label_names=[]), NetworkError, "classes and label names disagree: 0 and 3"),
        (lambda c: c["pretrained_cfg"].update(input_size=[3, 10**6, 32]), ArtifactError, "less than or equal to 8192"),
        (lambda c: c["pretrained_cfg"].update(std=[1.0, 0.0, 1.0]), ArtifactError, "field 'pretrained_cfg.std.1'"),
        (lambda c: c["pretrained_cfg"].update(mean=[0.0, float("nan"), 0]), ArtifactError, "NaN is no number of JSON"),
        (lambda c: c["model_args"].update(planes=[16, 2**40, 64]), NetworkError, "less than or equal to 1048576"),
        (lambda c: c.update(global_pool="max"), ArtifactError, "field 'global_pool'"),
        (lambda c: c["model_args"].update(global_pool="max"), NetworkError, "pools by average only"),
        (lambda c: c["model_args"].update(depth=50), NetworkError, "model_args, depth: Extra inputs"),
        (lambda c: c["model_args"].update(planes=[16, 30, 64]), NetworkError, "multiples of 4"),
        (lambda c: c["model_args"].update(planes="wide"), NetworkError, "model_args, planes"),
        (lambda c: c["model_args"].update(activation="gelu"), NetworkError, "model_args, activation"),
        (lambda c: c["model_args"].update(form="half"), NetworkError, "model_args.form is 'half'"),
        (lambda c: c["pretrained_cfg"].update(input_size=[3, 30, 32]), NetworkError, "30x32 pixels"),
        (lambda c: c["pretrained_cfg"].update(input_size=[3, 32]), ArtifactError, "field 'pretrained_cfg.input_size"),
        (lambda c: c["pretrained_cfg"].update(input_size=[3, 0, 32]), ArtifactError, "greater than 0"),
        (lambda c: c["pretrained_cfg"].update(interpolation="lanczos"), ArtifactError, "interpolation"),
        (lambda c: c["pretrained_cfg"].update(crop_mode="squash"), ArtifactError, "crop_mode"),
        (lambda c: c["pretrained_cfg"].update(crop_pct=2), ArtifactError, "crop_pct"),
        (lambda c: c["model_args"].update(form="fused"), CheckpointError, "weight"),
        (lambda c: c["model_args"].update(last_planes=64), CheckpointError, r"head.fc.weight is \[3, 128\]"),
        (lambda c: c.update(architecture="parnet_l"), CheckpointError, "the network takes"),
        (lambda c: c["model_args"].update(num_blocks=[1000, 4, 4]), CheckpointError, "too few weights"),
        (lambda c: c["model_args"].update(last_planes=2**20), CheckpointError, "too few weights"),
    ],
)
def test_configurations_that_do_not_fit(
    folder: Path, change: Callable[[dict[str, Any]], Any], kind: type[ParNetError], message: str
) -> None:
    edit(folder, change)
    error = refused(folder, kind, message)
    assert str(error.where).startswith(str(folder))
    assert len(str(error).splitlines()) <= 2


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_configurations_that_are_no_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, ArtifactError, "not valid JSON|Input should be")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_that_are_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, ArtifactError, f"no {name} here")


def test_pickled_weights_are_never_read(folder: Path, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "canary"),)

    torch.save(Attack(), folder / "pytorch_model.bin")
    import_hub_folder(folder, tmp_path / "b.safetensors", origin={})
    (folder / "model.safetensors").unlink()
    error = refused(folder, ArtifactError, r"no model.safetensors here.*pytorch_model.bin")
    assert "pickled weights are never read" in str(error.remedy)
    assert not (tmp_path / "canary").exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # it would have
    assert (tmp_path / "canary").exists()


def test_weights_that_are_not_those(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    for changed, message in (
        ({**weights, "extra": torch.zeros(1)}, "unexpected weight extra"),
        ({name: value for name, value in weights.items() if name != "head.fc.bias"}, "head.fc.bias is missing"),
        ({**weights, "head.fc.bias": weights["head.fc.bias"].half()}, "float16"),
        ({**weights, "head.fc.bias": torch.full((3,), float("nan"))}, "NaN"),
    ):
        safetensors.torch.save_file(changed, path)
        refused(folder, CheckpointError, message)
    path.write_bytes(b"not safetensors")
    refused(folder, CheckpointError, "not readable as safetensors")


def test_outputs_that_exist_are_kept(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.safetensors"
    with pytest.raises(OutputExistsError, match="already exists"):
        export_hub_folder(checkpoint, folder)
    with pytest.raises(OutputExistsError, match="already exists"):
        import_hub_folder(folder, checkpoint, origin={})
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(OutputExistsError, match="already exists"):
        import_hub_folder(folder, tmp_path / "b.safetensors", origin={})
    export_hub_folder(checkpoint, folder, force=True)
    # A clone of the repository, or anything else that is more than what was written here, is not replaced.
    (folder / ".git").mkdir()
    with pytest.raises(OutputExistsError, match="did not write"):
        export_hub_folder(checkpoint, folder, force=True)
    assert (folder / ".git").is_dir()


def test_a_damaged_checkpoint_is_not_exported(folder: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.safetensors"
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.write_bytes(data)
    with pytest.raises(ArtifactError, match="sha256 differs"):
        export_hub_folder(checkpoint, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    assert folder.exists()


@pytest.mark.parametrize("license_id", [None, "bsd-3-clause"])
def test_the_model_card_is_one_that_the_hub_reads(tmp_path: Path, license_id: str | None) -> None:
    card = save(tmp_path / "a.safetensors", create_random_network(NANO.network, seed=4), metrics={"top1": 0.9944})
    export_hub_folder(tmp_path / "a.safetensors", tmp_path / "hub", license_id=license_id)
    found = ModelCard.load(tmp_path / "hub" / "README.md")
    wanted = {"library_name": "timm", "pipeline_tag": "image-classification"}
    wanted |= {} if license_id is None else {"license": license_id}
    assert found.data.to_dict() == {**wanted, "tags": ["image-classification", "timm", "parnet"]}
    assert yaml.safe_load(found.content.split("---")[1]) == found.data.to_dict()
    for fact in ("`parnet_nano`", "| parameters | 355,258 |", "| top1 | 0.9944 |", card.weights.sha256):
        assert fact in found.text
    assert "import parnet_deploy.models" in found.text


def run_with_hub(hub: FakeHub, home: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script that knows no other Hub."""
    kept = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": "hf_none"}
    settings |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(
        [sys.executable, "-c", script], env={**kept, **settings, **environment}, capture_output=True, text=True
    )


def test_uploaded_by_the_hubs_own_client_and_imported_from_there(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "b.safetensors"
    script = (
        "import sys, timm, torch\n"
        "from huggingface_hub import HfApi\n"
        "from parnet_deploy.cli.main import run_app\n"
        "from parnet_deploy.models import load_checkpoint\n"
        f"HfApi().upload_folder(repo_id='me/net', folder_path={str(folder)!r})\n"
        f"assert run_app(['import', 'hf-hub:me/net', '-o', {str(output)!r}]) == 0\n"
        "found = timm.create_model('hf-hub:me/net', pretrained=True).state_dict()\n"
        f"wanted = load_checkpoint({str(output)!r}).state_dict()\n"
        "assert found.keys() == wanted.keys()\n"
        "assert all(torch.equal(found[name], wanted[name]) for name in wanted)\n"
    )
    with FakeHub("me/net") as hub:
        done = run_with_hub(hub, tmp_path / "home", script)
    assert done.returncode == 0, done.stderr
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    card = json.loads(output.with_suffix(".json").read_text())
    assert card["origin"] == {"made_by": "parnet-deploy import", "hub_repository": "me/net", "hub_commit": COMMIT}
    assert sha256_of_file(output) == sha256_of_file(folder / "model.safetensors")


def test_a_hub_without_the_repository_or_out_of_reach(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "from parnet_deploy.errors import DownloadError\n"
        "from parnet_deploy.weights.hub import fetch_hub_repository\n"
        "for name in ('me/other', 'me/net@nowhere', 'not a name', ''):\n"
        "    try:\n"
        "        fetch_hub_repository(name)\n"
        "    except DownloadError as error:\n"
        "        assert len(str(error).splitlines()) == 2, str(error)\n"
        "        print(error.where, '|', error.what)\n"
    )
    with FakeHub("me/net") as hub:
        hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.files["pytorch_model.bin"] = b"a pickle"
        found = run_with_hub(hub, tmp_path / "home", script)
        offline = run_with_hub(hub, tmp_path / "home", script, HF_HUB_OFFLINE="1")
    for done in (found, offline):
        assert done.returncode == 0, done.stderr
        told = done.stdout.splitlines()
        assert [line.partition(" |")[0] for line in told] == [
            "hf-hub:me/other",
            "hf-hub:me/net@nowhere",
            "hf-hub:not a name",
            "hf-hub:",
        ]
        assert all("cannot be fetched from the Hub" in line for line in told)


def test_only_two_files_are_fetched(folder: Path, tmp_path: Path) -> None:
    script = (
        "from parnet_deploy.weights.hub import fetch_hub_repository\n"
        "found = fetch_hub_repository('me/net')\n"
        "print(found.repository, found.commit, *sorted(path.name for path in found.folder.iterdir()))\n"
    )
    with FakeHub("me/net") as hub:
        hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.files["pytorch_model.bin"] = b"a pickle"
        done = run_with_hub(hub, tmp_path / "home", script)
    assert done.stdout.split() == ["me/net", COMMIT, "config.json", "model.safetensors"], done.stderr
    assert not any("pytorch_model.bin" in path for path in hub.asked)
