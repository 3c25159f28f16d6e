"""Time an ncnn plan layer by layer: `python -m benchmarks.ncnn_layers PLAN`.

Layers are computed one at a time, in the order of the file, as a request computes them: blobs stay in ncnn's layout and
are given back once they were used. What a request takes beyond the sum of its layers is the copy in and out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import ncnn
import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.engines.load import load_engines, open_backend
from parnet_deploy.engines.ncnn import NcnnEngine, read_text
from parnet_deploy.errors import EngineError
from parnet_deploy.runtime import Session


@dataclass(frozen=True)
class LayerTime:
    """A layer: what it does, its median time in milliseconds, and the GFLOP that a direct computation takes."""

    name: str
    kind: str
    ms: float
    gflop: float


def parameters_of(line: str) -> dict[int, int]:
    """Return the numbers of a layer in ncnn's text: those after its type, name, counts and blobs."""
    return {int(key): int(value) for key, _, value in (part.partition("=") for part in line.split()) if value.isdigit()}


def kind_of_layer(layer_type: str, numbers: dict[int, int], pixels: int) -> str:
    """Name a layer's kind; a convolution's by its kernel, stride and the number of its output's pixels."""
    if layer_type != "Convolution":
        return layer_type
    kernel, stride = numbers[1], numbers.get(3, 1)
    return f"Convolution {kernel}x{kernel}, stride {stride}, {pixels} pixels"


def layer_times(net: ncnn.Net, text: str, image: NDArray[np.float32], runs: int) -> list[LayerTime]:
    """Compute every layer `runs` times and return the medians, in the order of the file.

    Raises:
        EngineError: ncnn cannot compute a layer.
    """
    lines = text.splitlines()[2:]
    tops = [net.blobs()[layer.tops[0]].name for layer in net.layers()]
    times: list[list[int]] = [[] for _ in tops]
    pixels = [1] * len(tops)
    for _ in range(runs):
        extractor = net.create_extractor()
        extractor.input(tops[0], ncnn.Mat(image).clone())
        for index, top in enumerate(tops[1:], start=1):
            begun = perf_counter_ns()
            status, blob = extractor.extract(top, 1)
            times[index].append(perf_counter_ns() - begun)
            if status != 0:
                raise EngineError(f"ncnn cannot compute {top!r} (error {status})")
            pixels[index] = blob.w * blob.h if blob.dims == 3 else 1
            # A blob that is still held would be copied by the layer that changes it in place.
            del blob
    found = []
    for layer, line, spent, size in zip(net.layers(), lines, times, pixels, strict=True):
        numbers = parameters_of(line)
        weights = numbers.get({"Convolution": 6, "InnerProduct": 2}.get(layer.type, -1), 0)
        kind = kind_of_layer(layer.type, numbers, size)
        found.append(LayerTime(layer.name, kind, median(spent or [0]) / 1e6, 2 * weights * size / 1e9))
    return found


def print_kinds(layers: Sequence[LayerTime]) -> None:
    """Print a line for each kind of layer, the longest first."""
    total = sum(layer.ms for layer in layers)
    kinds = {kind: [layer for layer in layers if layer.kind == kind] for kind in {layer.kind for layer in layers}}
    rows = sorted(((sum(layer.ms for layer in found), kind, found) for kind, found in kinds.items()), reverse=True)
    print(f"{'kind':44} {'layers':>6} {'ms':>7} {'share':>6} {'GFLOP/s':>8}")
    for ms, kind, found in rows:
        gflop = sum(layer.gflop for layer in found)
        rate = f"{gflop / ms * 1e3:8.0f}" if gflop and ms else ""
        print(f"{kind:44} {len(found):6} {ms:7.2f} {ms / total:6.1%} {rate}")
    print(f"{'all':44} {len(layers):6} {total:7.2f}")


def main() -> None:
    """Time the layers of a plan's whole network and print what each kind takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("plan", type=Path, metavar="PLAN", help="a plan of the whole network by ncnn")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    plan = open_plan(arguments.plan)
    backend = open_backend(plan)
    engines = list(load_engines(plan, backend).values())
    if len(engines) > 1 or not isinstance(engines[0], NcnnEngine):
        sys.exit(f"{arguments.plan}: not a plan of a whole network by ncnn; build --backend ncnn from a whole bundle")
    text = read_text(plan.folder / plan.manifest.engines[0].file.name)
    image = np.random.default_rng(0).standard_normal(plan.manifest.preprocessing.input_size, np.float32)
    layers = layer_times(engines[0].net, text, image, arguments.runs)
    with Session.open(arguments.plan) as session:
        session.warm_up()
        times = []
        for _ in range(arguments.runs):
            begun = perf_counter_ns()
            session.infer(image[np.newaxis])
            times.append((perf_counter_ns() - begun) / 1e6)
    print_kinds(layers)
    print(f"{'a request, whole':51} {median(times):7.2f}")


if __name__ == "__main__":
    main()
