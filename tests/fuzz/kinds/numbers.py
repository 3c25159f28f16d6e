"""Weights that are not finite: refused wherever they would be written or answered with, and found by `verify`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.kinds.forgery import Prepare, with_graph, with_weights
from tests.fuzz.originals import Originals

_MADE = ("o.safetensors", "o.json")


def _weights_set_to(value: float) -> Callable[[Any, Path], None]:
    def change(model: Any, _folder: Path) -> None:
        import numpy as np
        from onnx import numpy_helper

        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        array = numpy_helper.to_array(tensor).copy()
        array.flat[0] = np.float32(value)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return change


def cases(_originals: Originals) -> Iterator[Case]:
    """Yield every value in every artefact."""
    for name, value in (("NaN", float("nan")), ("infinity", float("inf")), ("-infinity", float("-inf"))):
        trained, fused = with_weights(_spoiled(value)), with_weights(_spoiled(value), "fused")
        bundle, plan = with_graph(_weights_set_to(value)), with_graph(_weights_set_to(value), "plan_whole")
        for command, uses, prepare, outputs in (
            ("fuse trained.safetensors -o o.safetensors", ("trained",), trained, _MADE),
            ("export fused.safetensors -o o", ("fused",), fused, ("o",)),
            ("hub-export fused.safetensors -o hub_o", ("fused",), fused, ("hub_o",)),
            ("evaluate trained.safetensors labelled", ("trained", "labelled"), trained, ()),
            ("import hub -o o.safetensors", ("hub",), _spoil_hub(value), _MADE),
            ("import authors.pth.tar -o o.safetensors", ("authors",), _spoil_authors(value), _MADE),
            ("run plan_whole photo.png --json", ("plan_whole", "photo"), plan, ()),
            ("run plan_whole photo.png", ("plan_whole", "photo"), plan, ()),
            ("evaluate plan_whole labelled", ("plan_whole", "labelled"), plan, ()),
            ("evaluate whole labelled --json", ("whole", "labelled"), bundle, ()),
            ("verify plan_whole --write-golden g.json", ("plan_whole",), plan, ("g.json",)),
        ):
            yield Case("NaN weights", f"{name}, {command}", tuple(command.split()), uses, prepare, outputs)
        argv, uses = ("verify", "whole", "plan_whole", "--json"), ("whole", "plan_whole")
        yield Case("NaN weights", f"{name}, verify", argv, uses, plan, ends=frozenset({"failed"}))


def _spoiled(value: float) -> Callable[[bytes], bytes]:
    return lambda data: data[:-4] + struct.pack("<f", value)


def _spoil_hub(value: float) -> Prepare:
    def prepare(folder: Path) -> None:
        path = folder / "hub" / "model.safetensors"
        path.write_bytes(_spoiled(value)(path.read_bytes()))

    return prepare


def _spoil_authors(value: float) -> Prepare:
    def prepare(folder: Path) -> None:
        import argparse

        import torch

        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(folder / "authors.pth.tar", weights_only=True)
        for weights in (content["state_dict"], content["state_dict_ema"]):
            next(iter(weights.values())).view(-1)[0] = value
        torch.save(content, folder / "authors.pth.tar")

    return prepare
