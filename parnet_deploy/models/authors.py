"""Import checkpoints of the authors' released code (github.com/imankgoyal/NonDeepNetworks, BSD-3-Clause).

Reads the pickle safely, picks the weight set, infers the configuration from the weights' names and shapes, and renames
the weights. What the weights cannot tell is the activation; see `resolve_activation`.
"""

from __future__ import annotations

import argparse
import pickle
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from parnet_deploy.artifacts.schemas import NetworkConfig
from parnet_deploy.errors import CheckpointError
from parnet_deploy.models.blocks import Activation
from parnet_deploy.models.checkpoints import check_weights
from parnet_deploy.models.parnet import ParNet

_RELEASED = "pass a .pth.tar file of the authors' release"
_WEIGHTS_ALONE = "save the weights alone (torch.save of a dict with state_dict)"
_YAML = "pass the authors' YAML of this network: --config FILE"
_PLAIN = (str, bytes, int, float, bool, type(None), Tensor)


@dataclass(frozen=True)
class ImportedNetwork:
    """A network with the authors' weights, and how it was read."""

    model: ParNet
    weight_set: str
    activation_reason: str
    epoch: int | None


def import_checkpoint(
    path: Path, *, ema: bool = True, activation: Activation | None = None, config: Path | None = None
) -> ImportedNetwork:
    """Read a `.pth.tar` file of the authors' format.

    `ema` takes `state_dict_ema` where the file has one; `config` is the YAML that the network was trained with.

    Raises:
        CheckpointError: unreadable, unsafe or foreign content, or weights that make no ParNet.
    """
    content = _load_safely(path)
    weight_set = "state_dict_ema" if ema and isinstance(content.get("state_dict_ema"), Mapping) else "state_dict"
    weights = content.get(weight_set)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"holds no {weight_set!r} of tensors", where=path, remedy="pass a ParNet .pth.tar file")
    weights = {re.sub(r"^(module\.)+", "", str(key)): value for key, value in weights.items()}
    settings = _read_settings(config) if config is not None else _settings_of(content.get("args"))
    chosen, reason = resolve_activation(activation, settings, None if config is None else config.name)
    drop_rate = _drop_rate_of(settings, config or path)
    cfg = infer_config(weights, path).model_copy(update={"activation": chosen, "drop_rate": drop_rate})
    _check_settings(settings, cfg, config or path)
    model = ParNet(cfg)
    renamed = {rename_weight(key, cfg): value for key, value in weights.items()}
    check_weights(model, renamed, path)
    model.load_state_dict(renamed)
    epoch = content.get("epoch")
    return ImportedNetwork(
        model.requires_grad_(False).eval(), weight_set, reason, epoch if isinstance(epoch, int) else None
    )


def _load_safely(path: Path) -> Mapping[str, Any]:
    """Unpickle with an allow-list: tensors, plain containers and an argparse Namespace, nothing else."""
    if not path.is_file():
        raise CheckpointError("no such file", where=path, remedy=_RELEASED)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|class|function) `?([\w.]+)", str(error))
        what = f"the pickle asks for {found[1]}" if found and "." in found[1] else "the pickle is damaged or unsafe"
        raise CheckpointError(
            f"{what}; only tensors, plain containers and an argparse Namespace are read",
            where=path,
            remedy=_WEIGHTS_ALONE,
        ) from error
    except Exception as error:  # torch raises many types on a damaged file, RuntimeError and EOFError among them
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"not readable as a torch file ({first_line})", where=path, remedy=_RELEASED) from error
    _refuse_foreign(content, path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"holds a {type(content).__name__}, not a dictionary", where=path, remedy=_WEIGHTS_ALONE)
    return content


def _refuse_foreign(value: object, path: Path) -> None:
    """Refuse what torch's own allow-list lets through beyond the documented contents."""
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if isinstance(item, _PLAIN) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, argparse.Namespace):
            pending += vars(item).values()
        elif isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set):
            pending += item
        else:
            raise CheckpointError(
                f"holds a {type(item).__name__}; only tensors, plain containers and an argparse Namespace are read",
                where=path,
                remedy=_WEIGHTS_ALONE,
            )


def _settings_of(args: object) -> Mapping[str, Any] | None:
    """Return the network's settings if the training arguments carry them; the released files name a YAML only."""
    settings = getattr(args, "model_cfg", None)
    return settings if isinstance(settings, Mapping) else None


def _read_settings(path: Path) -> Mapping[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"not readable as YAML ({type(error).__name__})", where=path, remedy=_YAML) from error
    if not isinstance(settings, Mapping):
        raise CheckpointError("not a YAML mapping with planes and num_blocks", where=path, remedy=_YAML)
    return settings


def _repr(value: object) -> str:
    """Show a value of a file, shortened: lists that hold each other ten times can fill all memory as text."""
    short = reprlib.Repr()
    short.maxlevel = 3
    return short.repr(value)


def _drop_rate_of(settings: Mapping[str, Any] | None, where: Path) -> float:
    value = (settings or {}).get("dropout_lin") or 0.0
    if not isinstance(value, int | float) or not 0 <= value < 1:
        what = f"dropout_lin is {_repr(value)}, not a number from 0 up to 1"
        raise CheckpointError(what, where=where, remedy=_YAML)
    return float(value)


def resolve_activation(
    override: Activation | None, settings: Mapping[str, Any] | None, config_name: str | None
) -> tuple[Activation, str]:
    """Return the activation that the weights were trained with, and why.

    The released code runs SiLU where `"swish" in additional_branches`. The released YAML holds `[["swish"]]`, a nested
    list, for which that is false: the released networks run ReLU, although the paper says SiLU.
    """
    if override is not None:
        return override, "as requested"
    if settings is not None and "additional_branches" in settings:
        branches = settings["additional_branches"]
        literal = "swish" in branches if isinstance(branches, list | tuple | str) else False
        source = config_name or "the file's own arguments"
        return ("silu" if literal else "relu"), f"additional_branches = {_repr(branches)} in {source}, read as released"
    return "relu", (
        "the file does not say; the released configuration runs ReLU under the released code "
        "(override with --activation silu, or pass its YAML with --config)"
    )


def _check_settings(settings: Mapping[str, Any] | None, cfg: NetworkConfig, where: Path) -> None:
    if settings is None:
        return
    found = {"planes": [*cfg.planes, cfg.last_planes], "num_blocks": [*(n + 1 for n in cfg.num_blocks), 1]}
    for name, value in found.items():
        if name in settings and settings[name] not in (value, tuple(value)):
            raise CheckpointError(
                f"{name} is {_repr(settings[name])}, but the weights have {value}",
                where=where,
                remedy=_YAML,
            )


def infer_config(weights: Mapping[str, Tensor], where: Path) -> NetworkConfig:
    """Infer the configuration from the weights' names and shapes alone; the activation is left at its default."""

    def shape(key: str, axes: int = 4) -> tuple[int, ...]:
        if key not in weights or weights[key].ndim != axes:
            raise CheckpointError(
                f"the weight {key} is missing or has no {axes} axes, so this is no ParNet of the released code",
                where=where,
                remedy=_RELEASED,
            )
        return tuple(weights[key].shape)

    def count(pattern: str) -> int:
        return len({found[1] for key in weights if (found := re.match(pattern, key))})

    stem = tuple(
        shape(f"inits.0.{i}.block.rbr_dense.conv.weight")[0] for i in range(count(r"inits\.0\.(\d+)\.block\."))
    )
    num_streams = count(r"streams\.(\d+)\.")
    levels = tuple(shape(f"inits.{i}.block.rbr_dense.conv.weight")[0] for i in range(1, num_streams))
    num_classes, last_planes = shape("head.fc.weight", axes=2)
    try:
        return NetworkConfig(
            stem=stem,
            planes=(*stem[-1:], *levels),
            num_blocks=tuple(count(rf"streams\.{i}\.(\d+)\.") for i in range(num_streams)),
            last_planes=last_planes,
            in_chans=shape("inits.0.0.block.rbr_dense.conv.weight")[1],
            num_classes=num_classes,
        )
    except ValueError as error:
        raise CheckpointError("the weights make no ParNet that is known here", where=where, remedy=_RELEASED) from error


_BLOCK_PARTS = (
    (r"block\.rbr_dense\.", "branches.dense."),
    (r"block\.rbr_1x1\.(?:1\.)?", "branches.pointwise."),
    (r"block\.rbr_identity\.", "skip."),
    (r"block\.se\.cvsig\.conv\.", "gate."),
)


def rename_weight(key: str, cfg: NetworkConfig) -> str:
    """Map a weight's name in the authors' code to its name here; an unknown name is returned as it is."""
    last = cfg.num_streams
    places: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"^inits\.0\.(\d+)\.", r"stem.\1."),
        (r"^inits\.(\d+)\.", lambda m: f"level{int(m[1]) + 1}."),
        (r"^streams\.(\d+)\.", lambda m: f"stream{int(m[1]) + 1}."),
        (r"^downsamples_2\.0\.", "fusion1."),
        (r"^downsamples_2\.(\d+)\.[02]\.", lambda m: f"fusion{int(m[1]) + 1}."),
        (r"^combine\.[02]\.", f"fusion{last}."),
        (r"^combine\.3\.", "last."),
    ]
    for pattern, replacement in places:
        key, hits = re.subn(pattern, replacement, key)
        if hits:
            break
    for pattern, part in (*_BLOCK_PARTS, (r"\.b1\.", ".norm_stream."), (r"\.b2\.", ".norm_finer.")):
        key = re.sub(pattern, part, key)
    return key
