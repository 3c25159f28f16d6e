"""The authors' released format: the golden files, the activation rule, and nothing executed from a pickle."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.utils import reparameterize_model

from parnet_deploy.errors import CheckpointError
from parnet_deploy.fusion import fuse
from parnet_deploy.models.authors import ImportedNetwork, import_checkpoint, resolve_activation
from parnet_deploy.models.blocks import Activation
from parnet_deploy.models.parnet import ParNet

ACTIVATIONS: tuple[Activation, ...] = ("silu", "relu")
# What the released YAML files hold, with the widths of the golden files.
# Lists that hold the one before ten times: a thousand characters that would be printed as a hundred million.
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
RELEASED_YAML = """\
additional_branches:
- - swish
dropout_lin: 0.1
num_blocks: [5, 6, 6, 1]
planes: [8, 16, 24, 40]
"""
FLAT_YAML = RELEASED_YAML.replace("- - swish", "- swish")


@pytest.fixture(scope="session")
def content(data_dir: Path) -> Callable[[], dict[str, Any]]:
    """A function that returns the content of a golden file, to be changed and written again."""

    def read() -> dict[str, Any]:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found: dict[str, Any] = torch.load(data_dir / "tiny_silu.pth.tar", weights_only=True)
        return found

    return read


def relative_difference(wanted: torch.Tensor, found: torch.Tensor) -> float:
    """Return max|a - b| / max|a|."""
    return float((wanted - found.detach().double()).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_logits_are_the_authors_before_and_after_fusion(data_dir: Path, activation: Activation, ema: bool) -> None:
    golden = np.load(data_dir / f"tiny_{activation}.npz")
    assert str(golden["activation"]) == activation
    wanted = torch.from_numpy(golden["logits_ema" if ema else "logits"])
    other = torch.from_numpy(golden["logits" if ema else "logits_ema"])
    images = torch.from_numpy(golden["input"])
    assert wanted.dtype == torch.float64
    found = import_checkpoint(data_dir / f"tiny_{activation}.pth.tar", ema=ema, activation=activation)
    assert found.weight_set == ("state_dict_ema" if ema else "state_dict")
    assert (found.activation_reason, found.epoch) == ("as requested", 3)
    for model in (found.model, fuse(found.model)):
        assert relative_difference(wanted, model(images)) <= 1e-5
        assert relative_difference(other, model(images)) > 1e-2
    exact = found.model.double()
    for model in (exact, fuse(exact), reparameterize_model(exact)):
        assert relative_difference(wanted, model(images.double())) <= 1e-12


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_configuration_and_counts_are_the_authors(data_dir: Path, activation: Activation) -> None:
    golden = np.load(data_dir / f"tiny_{activation}.npz")
    model = import_checkpoint(data_dir / f"tiny_{activation}.pth.tar", activation=activation).model
    assert [*model.cfg.planes, model.cfg.last_planes] == golden["planes"].tolist()
    assert [*(count + 1 for count in model.cfg.num_blocks), 1] == golden["num_blocks"].tolist()
    assert (model.cfg.stem, model.cfg.activation) == ((8, 8), activation)
    assert sum(p.numel() for p in model.parameters()) == golden["params_train"]
    assert sum(p.numel() for p in reparameterize_model(model).parameters()) == golden["params_fused"]
    assert not any(module.training for module in model.modules())


def test_weights_without_ema_fall_back_to_the_trained_ones(
    content: Callable[[], dict[str, Any]], data_dir: Path, tmp_path: Path
) -> None:
    changed = content()
    del changed["state_dict_ema"]
    torch.save(changed, tmp_path / "net.pth.tar")
    found = import_checkpoint(tmp_path / "net.pth.tar", ema=True, activation="silu")
    assert found.weight_set == "state_dict"
    golden = np.load(data_dir / "tiny_silu.npz")
    logits = found.model(torch.from_numpy(golden["input"]))
    assert relative_difference(torch.from_numpy(golden["logits"]), logits) <= 1e-5


def test_prefixes_of_parallel_training_are_dropped(
    content: Callable[[], dict[str, Any]], data_dir: Path, tmp_path: Path
) -> None:
    weights = {key.removeprefix("module."): value for key, value in content()["state_dict"].items()}
    wanted = import_checkpoint(data_dir / "tiny_silu.pth.tar", ema=False).model.state_dict()
    for prefix in ("", "module.", "module.module."):
        torch.save({"state_dict": {prefix + key: value for key, value in weights.items()}}, tmp_path / "net.pth.tar")
        found = import_checkpoint(tmp_path / "net.pth.tar")
        assert found.epoch is None
        assert all(torch.equal(value, found.model.state_dict()[key]) for key, value in wanted.items())


class TestActivation:
    """The rule: what is asked for, else the configuration read literally, else ReLU, and always said why."""

    def of_yaml(self, data_dir: Path, tmp_path: Path, text: str, **options: Any) -> ImportedNetwork:
        config = tmp_path / "released.yaml"
        config.write_text(text)
        return import_checkpoint(data_dir / "tiny_silu.pth.tar", config=config, **options)

    def test_released_yaml_is_relu(self, data_dir: Path, tmp_path: Path) -> None:
        found = self.of_yaml(data_dir, tmp_path, RELEASED_YAML)
        assert found.model.cfg.activation == "relu"
        assert found.activation_reason == "additional_branches = [['swish']] in released.yaml, read as released"
        assert found.model.cfg.drop_rate == found.model.head.drop.p == 0.1

    def test_flat_yaml_is_silu(self, data_dir: Path, tmp_path: Path) -> None:
        found = self.of_yaml(data_dir, tmp_path, FLAT_YAML)
        assert found.model.cfg.activation == "silu"
        assert found.activation_reason == "additional_branches = ['swish'] in released.yaml, read as released"
        assert any(isinstance(module, torch.nn.SiLU) for module in found.model.modules())

    def test_override_wins(self, data_dir: Path, tmp_path: Path) -> None:
        found = self.of_yaml(data_dir, tmp_path, RELEASED_YAML, activation="silu")
        assert (found.model.cfg.activation, found.activation_reason) == ("silu", "as requested")

    def test_a_file_that_does_not_say_is_relu_and_says_so(self, data_dir: Path) -> None:
        found = import_checkpoint(data_dir / "tiny_silu.pth.tar")
        assert found.model.cfg.activation == "relu"
        assert "the file does not say" in found.activation_reason
        assert "--activation silu" in found.activation_reason
        assert not any(isinstance(module, torch.nn.SiLU) for module in found.model.modules())

    def test_the_files_own_arguments_are_read(self, content: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
        changed = content()
        changed["args"].model_cfg = {"additional_branches": ["swish"], "dropout_lin": 0.25}
        torch.save(changed, tmp_path / "net.pth.tar")
        found = import_checkpoint(tmp_path / "net.pth.tar")
        assert (found.model.cfg.activation, found.model.cfg.drop_rate) == ("silu", 0.25)
        assert "the file's own arguments" in found.activation_reason

    @pytest.mark.parametrize(
        ("branches", "activation"),
        [
            (["swish"], "silu"),
            (("swish",), "silu"),
            ("swish", "silu"),
            (["sse", "swish"], "silu"),
            ([["swish"]], "relu"),
            ([], "relu"),
            (None, "relu"),
            (["Swish"], "relu"),
        ],
    )
    def test_the_rule_is_the_released_expression(self, branches: Any, activation: str) -> None:
        found, reason = resolve_activation(None, {"additional_branches": branches}, "x.yaml")
        assert found == activation
        assert reason == f"additional_branches = {branches!r} in x.yaml, read as released"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RELEASED_YAML.replace("24, 40", "24, 48"), r"planes is \[8, 16, 24, 48\], but the weights have"),
        (RELEASED_YAML.replace("6, 1]", "7, 1]"), r"num_blocks is \[5, 6, 7, 1\], but the weights have"),
        (RELEASED_YAML.replace("[8, 16, 24, 40]", "5"), "planes is 5, but the weights have"),
        (RELEASED_YAML.replace("0.1", "often"), "dropout_lin is 'often', not a number"),
        (RELEASED_YAML.replace("0.1", "1.0"), "dropout_lin is 1.0, not a number from 0 up to 1"),
        ("- a\n- b\n", "not a YAML mapping"),
        ("a: [", "not readable as YAML"),
        ("!!python/object/apply:os.system ['true']", "not readable as YAML"),
        ("[" * 20_000, "not readable as YAML"),
        (LAUGHS + "planes: *i", r"planes is \[\[\["),
        (LAUGHS + "dropout_lin: *i", r"dropout_lin is \[\[\["),
    ],
)
def test_configurations_that_do_not_fit_are_refused(data_dir: Path, tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "other.yaml"
    config.write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_checkpoint(data_dir / "tiny_silu.pth.tar", config=config)
    assert caught.value.where == str(config)
    assert "--config" in str(caught.value.remedy)


def test_a_missing_configuration_is_named(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not readable as YAML") as caught:
        import_checkpoint(data_dir / "tiny_silu.pth.tar", config=tmp_path / "none.yaml")
    assert caught.value.where == str(tmp_path / "none.yaml")


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    """Return a change that removes a weight."""
    return lambda weights: weights.pop(key)


def rename(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    """Return a change that renames a weight."""
    return lambda weights: weights.update({new: weights.pop(old)})


def reshape(key: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    """Return a change that gives a weight another shape."""
    return lambda weights: weights.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("head.fc.weight"), "the weight head.fc.weight is missing"),
        (drop("head.fc.bias"), "the weight head.fc.bias is missing"),
        (drop("inits.0.0.block.rbr_dense.conv.weight"), "inits.0.0.block.rbr_dense.conv.weight is missing"),
        (drop("streams.1.2.block.rbr_identity.running_var"), "stream2.2.skip.running_var is missing"),
        (drop("downsamples_2.1.0.b2.bias"), "fusion2.norm_finer.bias is missing"),
        (rename("head.fc.bias", "head.fc.offset"), "head.fc.bias is missing"),
        (rename("combine.0.b1.weight", "combine.0.b3.weight"), "unexpected weight fusion3.b3.weight"),
        (rename("streams.0.0.block.rbr_dense.conv.weight", "stem.x"), "unexpected weight stem.x"),
        (reshape("head.fc.weight", 7), "head.fc.weight is missing or has no 2 axes"),
        (reshape("head.fc.weight"), "head.fc.weight is missing or has no 2 axes"),
        (reshape("head.fc.weight", 1000, 41), r"head.fc.bias|last.branches"),
        (reshape("inits.1.block.rbr_dense.conv.weight"), "has no 4 axes"),
        (reshape("inits.1.block.rbr_dense.conv.weight", 15, 8, 3, 3), "no ParNet that is known here"),
        (reshape("combine.3.block.se.cvsig.conv.weight", 40, 24), r"last.gate.weight is \[40, 24\]"),
    ],
)
def test_weights_that_make_no_parnet_are_refused(
    content: Callable[[], dict[str, Any]],
    tmp_path: Path,
    change: Callable[[dict[str, Any]], None],
    message: str,
) -> None:
    weights = {key.removeprefix("module."): value for key, value in content()["state_dict"].items()}
    change(weights)
    path = tmp_path / "net.pth.tar"
    torch.save({"state_dict": weights}, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_checkpoint(path)
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) <= 2


def test_every_weight_counts(content: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    """Whichever weight is missing or has no shape, the file is refused with an error that says where."""
    weights = content()["state_dict"]
    path = tmp_path / "net.pth.tar"
    for key in list(weights)[::17]:
        for changed in ({k: v for k, v in weights.items() if k != key}, weights | {key: torch.tensor(1.0)}):
            if "num_batches_tracked" in key:
                changed |= {key: torch.zeros(3)}
            torch.save({"state_dict": changed}, path)
            with pytest.raises(CheckpointError):
                import_checkpoint(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"state_dict": torch.nn.Conv2d(3, 4, 3).state_dict()}, "no ParNet of the released code"),
        ({"state_dict": {"a": 1}}, "holds no 'state_dict' of tensors"),
        ({"state_dict": [torch.zeros(1)]}, "holds no 'state_dict' of tensors"),
        ({"state_dict": {}}, "is missing"),
        ({"model": {}}, "holds no 'state_dict' of tensors"),
        ({"state_dict": {}, "state_dict_ema": {"a": "b"}}, "holds no 'state_dict_ema' of tensors"),
        ([torch.zeros(1)], "holds a list, not a dictionary"),
        (torch.zeros(1), "holds a Tensor, not a dictionary"),
        ({"state_dict": {}, "dtype": torch.float32}, "holds a dtype; only tensors, plain containers"),
        ({"state_dict": {}, "args": argparse.Namespace(deep=[(torch.device("cpu"),)])}, "holds a device"),
    ],
)
def test_other_torch_files_are_refused(tmp_path: Path, value: object, message: str) -> None:
    path = tmp_path / "other.pth.tar"
    torch.save(value, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_checkpoint(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_plain_containers_are_read(content: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    changed = content()
    changed["state_dict"] = collections.OrderedDict(changed["state_dict"])
    changed["args"].betas, changed["args"].tags, changed["note"] = (0.9, 0.999), {"a", "b"}, b"bytes"
    torch.save(changed, tmp_path / "net.pth.tar")
    assert isinstance(import_checkpoint(tmp_path / "net.pth.tar").model, ParNet)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(data_dir: Path, tmp_path: Path, kept: float) -> None:
    whole = (data_dir / "tiny_silu.pth.tar").read_bytes()
    path = tmp_path / "cut.pth.tar"
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(path)
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("junk", [b"hello, world", b"\x80\x02.", b"\x80\x04N.", b"PK\x03\x04" + b"\x00" * 100])
def test_files_that_are_no_torch_files_are_refused(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk.pth.tar"
    path.write_bytes(junk)
    with pytest.raises(CheckpointError) as caught:
        import_checkpoint(path)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth.tar", tmp_path):
        with pytest.raises(CheckpointError, match="no such file"):
            import_checkpoint(path)


class Shell:
    """Unpickles by running a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


class Spawn(Shell):
    """Unpickles by starting a process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.check_call, (["touch", str(self.canary)],)


class Evaluate(Shell):
    """Unpickles by evaluating an expression."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({str(self.canary)!r}, 'w').close()",)


class Custom:
    """A class of our own whose state, when restored, does something."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["canary"].touch()


def write_zip(value: object, path: Path) -> None:
    """Write today's torch format."""
    torch.save(value, path)


def write_legacy(value: object, path: Path) -> None:
    """Write torch's format before 1.6."""
    torch.save(value, path, _use_new_zipfile_serialization=False)


def write_bare(value: object, path: Path) -> None:
    """Write a pickle without torch."""
    path.write_bytes(pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("write", [write_zip, write_legacy, write_bare])
@pytest.mark.parametrize("attack", [Shell, Spawn, Evaluate, Custom])
@pytest.mark.parametrize("place", ["whole", "weights", "args"])
def test_nothing_in_a_pickle_is_executed(
    tmp_path: Path,
    attack: type[Shell] | type[Custom],
    write: Callable[[object, Path], None],
    place: str,
) -> None:
    canary = tmp_path / "canary"
    value: Any = attack(canary)
    if place == "weights":
        value = {"state_dict": {"head.fc.weight": value}}
    elif place == "args":
        value = {"state_dict": {}, "args": argparse.Namespace(model=value)}
    path = tmp_path / "evil.pth.tar"
    write(value, path)
    with pytest.raises(CheckpointError, match="only tensors, plain containers and an argparse Namespace") as caught:
        import_checkpoint(path)
    assert caught.value.where == str(path)
    assert len(str(caught.value).splitlines()) <= 2
    assert not canary.exists()
    # The file would have done it: read without care, it does.
    if write is write_bare:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize(
    ("value", "asked_for"),
    [
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (np.float64(1.0), "numpy"),
        (np.zeros(3), "numpy"),
        (Path("x"), "pathlib"),
    ],
)
def test_objects_beyond_the_format_are_refused_by_name(tmp_path: Path, value: object, asked_for: str) -> None:
    path = tmp_path / "rich.pth.tar"
    torch.save({"state_dict": {}, "metric": value}, path)
    with pytest.raises(CheckpointError, match=rf"the pickle asks for {asked_for}[\w.]*; only tensors") as caught:
        import_checkpoint(path)
    assert caught.value.remedy == "save the weights alone (torch.save of a dict with state_dict)"


def test_the_allow_list_is_not_left_open(data_dir: Path) -> None:
    # torch keeps them in no order.
    before = set(torch.serialization.get_safe_globals())
    import_checkpoint(data_dir / "tiny_silu.pth.tar")
    assert set(torch.serialization.get_safe_globals()) == before
