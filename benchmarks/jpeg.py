"""Time what happens to a JPEG file before the network: `python -m benchmarks.jpeg [--stem PLAN]`.

The yardstick is the network's first blocks: a plan of the partition `shared-stem` has them as a stage. Times are
medians of wall-clock milliseconds on one core; photographs are those of scikit-learn, resized.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
from PIL import Image

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.errors import ArtifactError
from parnet_deploy.runtime import Session
from parnet_deploy.runtime.preprocess import load_image

_SIZES = ((500, 375), (640, 480), (1280, 960), (2592, 1944), (4000, 3000))


def median_ms(call: Callable[[], object], runs: int) -> float:
    """Return the median time of a call after one that warms up."""
    call()
    times = []
    for _ in range(runs):
        begun = perf_counter()
        call()
        times.append(perf_counter() - begun)
    return median(times) * 1e3


def stem_ms(plan: Path, runs: int) -> float:
    """Return the median time of the stage `stem`.

    Raises:
        ArtifactError: the plan has no such stage.
    """
    with Session.open(plan) as session:
        if "stem" not in [stage.name for stage in session.plan.stages]:
            raise ArtifactError("the plan has no stage 'stem'", where=plan, remedy="export --partition shared-stem")
        session.warm_up()
        image = np.zeros((1, *session.plan.preprocessing.input_size), np.float32)
        spans = [span for request in session.profile(image, runs) for span in request if span.stage == "stem"]
    return median(span.end_ms - span.start_ms for span in spans)


def main() -> None:
    """Time files of several sizes, decoded exactly and at a fraction, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stem", type=Path, metavar="PLAN", help="plan of the partition shared-stem to compare with")
    parser.add_argument("--runs", type=int, default=30)
    arguments = parser.parse_args()
    from sklearn.datasets import load_sample_images

    photograph = Image.fromarray(load_sample_images().images[0])
    preprocessing = Preprocessing()
    if arguments.stem is not None:
        print(f"stem: {stem_ms(arguments.stem, arguments.runs):.2f} ms")
    with tempfile.TemporaryDirectory(prefix="parnet-jpeg-") as folder:
        for size in _SIZES:
            path = Path(folder) / "photograph.jpg"
            photograph.resize(size, Image.Resampling.LANCZOS).save(path, quality=90)
            exact, scaled = load_image(path, preprocessing), load_image(path, preprocessing, scaled=True)
            exact_ms, scaled_ms = (
                median_ms(partial(load_image, path, preprocessing, scaled=is_scaled), arguments.runs)
                for is_scaled in (False, True)
            )
            difference = np.abs(exact - scaled).mean() * np.mean(preprocessing.std) * 255
            print(
                f"{size[0]}x{size[1]}, {path.stat().st_size // 1024} KiB: exact {exact_ms:.2f} ms, "
                f"scaled {scaled_ms:.2f} ms (mean difference {difference:.2f} of 255)"
            )


if __name__ == "__main__":
    main()
