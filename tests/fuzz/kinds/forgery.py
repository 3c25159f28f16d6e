"""Put forged files into artefacts, with the hashes that belong to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.fuzz.kinds.manifests import unsealed

Prepare = Callable[[Path], None]


def writes(name: str, data: bytes) -> Prepare:
    """Return a function that writes a file."""
    return lambda folder: write(folder, name, data)


def write(folder: Path, name: str, data: bytes) -> None:
    """Write a file."""
    (folder / name).write_bytes(data)


def with_weights(data: Callable[[bytes], bytes], name: str = "trained") -> Prepare:
    """Return a function that rewrites a checkpoint's weights, and its card so that the hash is right."""

    def prepare(folder: Path) -> None:
        path, card_path = folder / f"{name}.safetensors", folder / f"{name}.json"
        path.write_bytes(data(path.read_bytes()))
        card = unsealed(json.loads(card_path.read_bytes()))
        card["weights"] |= {"sha256": sha256(path.read_bytes()).hexdigest(), "size_bytes": path.stat().st_size}
        card_path.write_text(json.dumps(card))

    return prepare


def with_graph(change: Callable[[Any, Path], None], target: str = "whole") -> Prepare:
    """Return a function that changes the ONNX file of a bundle or plan, and the manifest so that the hash is right."""

    def prepare(folder: Path) -> None:
        import onnx

        path = folder / target / "whole.onnx"
        model = onnx.load(path)
        change(model, folder)
        path.write_bytes(model.SerializeToString())
        reseal(folder / target, "whole.onnx")

    return prepare


def reseal(folder: Path, name: str) -> None:
    """Record a file's hash in a bundle's or plan's manifest, as its forger would."""
    manifest = folder / ("bundle.json" if (folder / "bundle.json").exists() else "plan.json")
    content = unsealed(json.loads(manifest.read_bytes()))
    entry = content["stages" if manifest.name == "bundle.json" else "engines"][0]
    path = folder / name
    entry["file"] = {"name": name, "sha256": sha256(path.read_bytes()).hexdigest(), "size_bytes": path.stat().st_size}
    manifest.write_text(json.dumps(content))
