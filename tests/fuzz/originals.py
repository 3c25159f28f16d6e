"""Whole artefacts of a small network, made by the command line, of which the cases spoil copies."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

# The name of each original, and the files or folders that belong to it.
PARTS: dict[str, tuple[str, ...]] = {
    "trained": ("trained.safetensors", "trained.json"),
    "fused": ("fused.safetensors", "fused.json"),
    "whole": ("whole",),
    "split": ("split",),
    "plan": ("plan",),
    "plan_whole": ("plan_whole",),
    "golden": ("golden.json",),
    "report": ("report",),
    "authors": ("authors.pth.tar",),
    "hub": ("hub",),
    "photo": ("photo.png",),
    "photos": ("photos",),
    "labelled": ("labelled",),
    "times": ("times.json",),
    "placement": ("placement.json",),
    "link": ("link.json",),
    "config": ("config.yaml",),
}

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Writer:
    """A command that writes: what it reads, what it writes, what it leaves behind on failure."""

    name: str
    argv: tuple[str, ...]
    uses: tuple[str, ...]
    outputs: tuple[str, ...]
    leaves: tuple[str, ...] = ()


# Also the order in which the originals are made: each writes the original that its output is named after.
WRITERS = (
    Writer(
        "init",
        ("init", "parnet_nano", "--seed", "3", "-o", "trained.safetensors"),
        (),
        ("trained.safetensors", "trained.json"),
    ),
    Writer(
        "fuse",
        ("fuse", "trained.safetensors", "-o", "fused.safetensors"),
        ("trained",),
        ("fused.safetensors", "fused.json"),
    ),
    Writer("export", ("export", "fused.safetensors", "-o", "split", "--split-streams"), ("fused",), ("split",)),
    Writer("export-whole", ("export", "fused.safetensors", "-o", "whole"), ("fused",), ("whole",)),
    Writer("build", ("build", "split", "-o", "plan", "--threads", "1"), ("split",), ("plan",)),
    Writer("build-whole", ("build", "whole", "-o", "plan_whole", "--threads", "1"), ("whole",), ("plan_whole",)),
    Writer("golden", ("verify", "plan_whole", "--write-golden", "golden.json"), ("plan_whole",), ("golden.json",)),
    Writer("report", ("verify", "whole", "plan_whole", "-o", "report"), ("whole", "plan_whole"), ("report",)),
    Writer("hub-export", ("hub-export", "fused.safetensors", "-o", "hub"), ("fused",), ("hub",)),
    Writer(
        "import",
        ("import", "authors.pth.tar", "-o", "imported.safetensors"),
        ("authors",),
        ("imported.safetensors", "imported.json"),
    ),
    Writer(
        "import-hub",
        ("import", "hub", "-o", "from_hub.safetensors"),
        ("hub",),
        ("from_hub.safetensors", "from_hub.json"),
    ),
    Writer(
        "junit",
        ("verify", "whole", "plan_whole", "--junit", "verify.xml"),
        ("whole", "plan_whole"),
        ("verify.xml",),
    ),
    Writer("trace", ("run", "plan", "photo.png", "--trace", "trace.json"), ("plan", "photo"), ("trace.json",)),
    Writer(
        "plan-trace",
        ("plan", "split", "--devices", "2", "--device-profile", "rtx3090", "--trace", "predicted.json"),
        ("split",),
        ("predicted.json",),
    ),
    Writer(
        "train",
        ("train", "--data", "labelled", "--epochs", "2", "--resolution", "32", "-o", "net.safetensors"),
        ("labelled",),
        ("net.safetensors", "net.json"),
        ("net.run",),
    ),
)


@dataclass(frozen=True)
class Measured:
    """How long a writer took, and how many times it changed a file."""

    seconds: float
    events: int


@dataclass(frozen=True)
class Originals:
    """The folder of whole artefacts, and what was measured while they were made."""

    folder: Path
    writers: dict[str, Measured]

    def copy(self, names: tuple[str, ...], target: Path) -> None:
        """Copy originals, by name, into a case's folder."""
        for part in (part for name in names for part in PARTS[name]):
            source = self.folder / part
            if source.is_dir():
                shutil.copytree(source, target / part)
            else:
                shutil.copyfile(source, target / part)

    def save(self) -> None:
        """Keep what was measured beside the artefacts."""
        content = {name: asdict(measured) for name, measured in self.writers.items()}
        (self.folder / "measured").write_text(json.dumps(content))

    @classmethod
    def load(cls, folder: Path) -> Originals:
        """Read what `save` kept."""
        content = json.loads((folder / "measured").read_text())
        return cls(folder, {name: Measured(**measured) for name, measured in content.items()})


def write_inputs(folder: Path) -> None:
    """Write what comes from users: pictures, the authors' checkpoint, settings."""
    from PIL import Image

    random = np.random.default_rng(0)

    def picture() -> Image.Image:
        return Image.fromarray(random.integers(0, 256, (40, 48, 3), np.uint8))

    picture().save(folder / "photo.png")
    (folder / "photos").mkdir()
    for suffix in ("bmp", "gif", "jpg", "png", "ppm", "tif", "webp"):
        picture().save(folder / "photos" / f"a.{suffix}")
    for label in range(10):
        for part in ("train", "val"):
            place = folder / "labelled" / part / f"class{label}"
            place.mkdir(parents=True)
            picture().save(place / "0.png")
    shutil.copyfile(DATA / "tiny_relu.pth.tar", folder / "authors.pth.tar")
    stages = ("stream1", "stream2", "stream3", "join")
    (folder / "times.json").write_text(json.dumps({stage: 1.5 for stage in stages}))
    (folder / "placement.json").write_text(json.dumps({stage: "cpu/0" for stage in stages}))
    link = {"latency_us": 3, "bandwidth_gb_s": 20, "host_latency_us": 8, "host_bandwidth_gb_s": 20}
    (folder / "link.json").write_text(json.dumps({"name": "mine", **link}))
    (folder / "config.yaml").write_text("additional_branches: [[swish]]\ndropout_lin: 0.0\n")
