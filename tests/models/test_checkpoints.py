"""Checkpoints on disk: bit-equal round trips, and every kind of damage refused."""

from __future__ import annotations

import errno
import itertools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from timm.utils import reparameterize_model

from parnet_deploy.artifacts.files import SEAL, sha256_of_file
from parnet_deploy.artifacts.folders import card_path_of, open_card
from parnet_deploy.artifacts.schemas import NetworkConfig, Parent, Preprocessing
from parnet_deploy.errors import ArtifactError, CheckpointError, OutputExistsError
from parnet_deploy.fusion import fuse
from parnet_deploy.models.checkpoints import create_network, load_checkpoint, save_checkpoint
from parnet_deploy.models.parnet import Form, ParNet

PARENT = Parent(kind="file", name="x.pth.tar", sha256="0" * 64)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """View numbers as bytes, so that -0.0 and 0.0 differ."""
    return tensor.reshape(-1).contiguous().view(torch.uint8)


def save(path: Path, model: ParNet, **options: Any) -> None:
    """Save with the arguments that a test does not care about."""
    save_checkpoint(path, model, architecture="parnet", preprocessing=Preprocessing(), **options)


def edit_card(path: Path, **changes: Any) -> None:
    """Replace fields of the card beside a checkpoint."""
    card_path = card_path_of(path)
    card = json.loads(card_path.read_text())
    card.pop(SEAL, None)
    card_path.write_text(json.dumps(card | changes))


def replace_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Replace the weights and make the card's hash fit, as a forger would."""
    safetensors.torch.save_file(weights, path)
    edit_card(path, weights={"name": path.name, "sha256": sha256_of_file(path), "size_bytes": path.stat().st_size})


@pytest.mark.parametrize("form", ["training", "fused"])
def test_round_trip_is_bit_equal(form: Form, small_network: ParNet, tmp_path: Path) -> None:
    model = small_network if form == "training" else fuse(small_network)
    path = tmp_path / "new" / "net.safetensors"
    card = save_checkpoint(
        path,
        model,
        architecture="parnet",
        preprocessing=Preprocessing(input_size=(3, 64, 64)),
        label_names=("a", "b", "c"),
        parent=PARENT,
        metrics={"top1": 0.25},
        origin={"made_by": "a test", "seed": 11},
    )
    assert open_card(path).manifest == card
    assert (card.form, card.network, card.parent) == (form, small_network.cfg, PARENT)
    loaded = load_checkpoint(path)
    assert isinstance(loaded, ParNet)
    assert loaded.form == form
    wanted, found = model.state_dict(), loaded.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(bits(wanted[name]), bits(found[name])) for name in wanted)
    assert not any(module.training for module in loaded.modules())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["net.json", "net.safetensors"]


@pytest.mark.parametrize("change", range(1, 9))
def test_a_full_disk_at_any_change_costs_no_older_checkpoint(
    small_network: ParNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    """Of the steps that need room, each fails in turn, until none is left."""
    path = tmp_path / "net.safetensors"
    save(path, small_network)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        left = itertools.count(change, -1)

        def full(real: Any) -> Any:
            def call(*arguments: Any, **options: Any) -> Any:
                if next(left) == 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return real(*arguments, **options)

            return call

        for owner, name in (
            (tempfile, "mkstemp"),
            (safetensors.torch, "save_file"),
            (Path, "write_bytes"),
            (os, "fsync"),
        ):
            patch.setattr(owner, name, full(getattr(owner, name)))
        try:
            save(path, small_network, metrics={"top1": 1.0}, force=True)
        except ArtifactError as error:
            assert "No space left" in str(error)  # noqa: PT017 (both ends are right, each with its own content)
            assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
        else:
            assert change > 6
            assert open_card(path).manifest.metrics == {"top1": 1.0}


def test_weights_that_cannot_be_written_are_named(
    small_network: ParNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise safetensors.SafetensorError("Error while serializing: I/O error: File too large")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(CheckpointError, match=r"cannot be written .*File too large"):
        save(tmp_path / "net.safetensors", small_network)
    assert not list(tmp_path.iterdir())


def test_saving_twice_gives_the_same_bytes(small_network: ParNet, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name / "net.safetensors", small_network)
    for file in ("net.safetensors", "net.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_weights_is_noticed(checkpoint: Path, place: float, bit: int) -> None:
    whole = checkpoint.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * len(whole))] ^= 1 << bit
    checkpoint.write_bytes(damaged)
    try:
        with pytest.raises(ArtifactError, match="sha256 differs"):
            load_checkpoint(checkpoint)
    finally:
        checkpoint.write_bytes(whole)


def test_truncated_weights_are_noticed(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"bytes where the manifest says.*\n.*make the artefact again"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, but this version of parnet-deploy reads 1"),
        ({"schema_version": None}, "schema version None"),
        ({"kind": "bundle"}, "of kind 'bundle', not 'checkpoint'"),
        ({"surprise": 1}, "field 'surprise': Extra inputs are not permitted"),
        ({"form": "half"}, "field 'form'"),
        ({"label_names": ["only one"]}, "1 label names for 3 classes"),
        ({"network": {}}, "field 'network.stem'"),
        ({"weights": {"name": "../../etc/passwd", "sha256": "0" * 64, "size_bytes": 1}}, "field 'weights.name'"),
        ({"weights": {"name": "small.safetensors", "sha256": "zz", "size_bytes": 1}}, "field 'weights.sha256'"),
    ],
)
def test_cards_that_were_tampered_with_are_refused(checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    edit_card(checkpoint, **changes)
    with pytest.raises(ArtifactError, match=message) as caught:
        load_checkpoint(checkpoint)
    assert caught.value.where == str(card_path_of(checkpoint))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_cards_that_are_no_json_object_are_refused(checkpoint: Path, content: bytes) -> None:
    card_path_of(checkpoint).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not valid JSON|of kind None") as caught:
        load_checkpoint(checkpoint)
    assert caught.value.where == str(card_path_of(checkpoint))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"num_blocks": (1, 2, 2)}, "the weight stream2.1.branches.dense.bn.bias is missing"),
        ({"num_blocks": (1, 1, 1)}, "unexpected weight stream3.1"),
        ({"last_planes": 11}, r"head.fc.weight is \[3, 10\] torch.float32, but the network takes \[3, 11\]"),
    ],
)
def test_cards_of_another_network_are_refused(
    checkpoint: Path, small_config: NetworkConfig, network: dict[str, Any], message: str
) -> None:
    edit_card(checkpoint, network=small_config.model_dump(mode="json") | network)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(checkpoint)


def test_a_card_of_the_other_form_is_refused(checkpoint: Path) -> None:
    edit_card(checkpoint, form="fused")
    with pytest.raises(CheckpointError, match="weight"):
        load_checkpoint(checkpoint)


def test_missing_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors")
    foreign = tmp_path / "net.pth.tar"
    foreign.write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"(?s)not a .safetensors file.*parnet-deploy import"):
        load_checkpoint(foreign)
    card_path_of(checkpoint).unlink()
    with pytest.raises(ArtifactError, match="card is missing"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_refused_both_ways(
    checkpoint: Path, small_network: ParNet, value: float
) -> None:
    weights = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    weights["stream2.0.skip.running_var"][3] = value
    spoiled = create_network(small_network.cfg)
    spoiled.load_state_dict(weights)
    target = checkpoint.with_name("spoiled.safetensors")
    with pytest.raises(CheckpointError, match=r"stream2.0.skip.running_var holds NaN or infinite"):
        save(target, spoiled)
    assert sorted(entry.name for entry in target.parent.iterdir()) == ["small.json", "small.safetensors"]
    replace_weights(checkpoint, weights)
    with pytest.raises(CheckpointError, match=r"stream2.0.skip.running_var holds NaN or infinite"):
        load_checkpoint(checkpoint)


def test_weights_of_another_type_are_refused_both_ways(checkpoint: Path, small_network: ParNet) -> None:
    half = {name: tensor.to(torch.float16) for name, tensor in small_network.state_dict().items()}
    replace_weights(checkpoint, half)
    with pytest.raises(CheckpointError, match=r"float16, but the network takes .* torch.float32"):
        load_checkpoint(checkpoint)
    double = create_network(small_network.cfg).double()
    with pytest.raises(CheckpointError, match=r"float64, but the network takes .* torch.float32"):
        save(checkpoint, double, force=True)


def test_what_could_not_be_loaded_again_is_not_saved(small_network: ParNet, tmp_path: Path) -> None:
    headless = create_network(small_network.cfg)
    headless.reset_classifier(0)
    for model, message in (
        (reparameterize_model(small_network), "the weight fusion1.branches.dense"),
        (headless, "the weight head.fc.bias is missing"),
    ):
        with pytest.raises(CheckpointError, match=message):
            save(tmp_path / "net.safetensors", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\xff" * 64, b'{"a": 1}' * 9])
def test_files_that_are_no_safetensors_are_refused(checkpoint: Path, content: bytes) -> None:
    checkpoint.write_bytes(content)
    edit_card(
        checkpoint,
        weights={"name": checkpoint.name, "sha256": sha256_of_file(checkpoint), "size_bytes": len(content)},
    )
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize("survivor", [".safetensors", ".json"])
def test_existing_output_is_refused_and_untouched(checkpoint: Path, small_network: ParNet, survivor: str) -> None:
    kept = checkpoint.with_suffix(survivor)
    for path in (checkpoint, card_path_of(checkpoint)):
        if path != kept:
            path.unlink()
    before = kept.read_bytes()
    with pytest.raises(OutputExistsError, match=r"(?s)already exists.*--force"):
        save(checkpoint, small_network)
    assert kept.read_bytes() == before
    assert list(kept.parent.iterdir()) == [kept]


def test_force_replaces_weights_and_card(checkpoint: Path, small_config: NetworkConfig) -> None:
    other = create_network(small_config)
    save(checkpoint, other, force=True)
    loaded = load_checkpoint(checkpoint)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in other.state_dict().items())
    assert open_card(checkpoint).manifest.label_names is None


@pytest.mark.parametrize("name", ["net.pth", "net", "net.json", "net.safetensors.tmp"])
def test_other_file_names_are_refused(small_network: ParNet, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        save(tmp_path / name, small_network)
    assert not list(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_the_old_checkpoint(
    checkpoint: Path, small_config: NetworkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.parent.iterdir()}

    def fill_the_disk(_weights: object, path: Path, **_options: object) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fill_the_disk)
    with pytest.raises(ArtifactError, match=r"(?s)cannot be written \(No space left on device\).*free space"):
        save(checkpoint, create_network(small_config), force=True)
    assert {path.name: path.read_bytes() for path in checkpoint.parent.iterdir()} == before
