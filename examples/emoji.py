"""Train a ParNet on emoji, quantise it to int8 and measure what that costs: real colour images that need no hub.

The npm packages emoji-datasource-{apple,google,twitter,facebook} carry the same emoji in four drawings, 64x64 pixels
each, in nine categories. The network learns from three drawings and is tested on the fourth. The packages are some
340 MB; images stay in the output folder and are not ours to pass on. Training takes about forty minutes on two cores.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from PIL import Image

TOOL = Path(sys.executable).with_name("parnet-deploy")
DRAWINGS = ("apple", "google", "twitter", "facebook")
VERSION = "16.0.0"
TEST_DRAWING = "facebook"
FORMS = (("cpu", "int8"), ("openvino", "int8"), ("tensorrt", "int8"), ("tensorrt", "fp8"))
# Skin tones and hair alone: no category of pictures.
_NO_CATEGORY = "Component"


def fetch_package(drawing: str, folder: Path) -> Path:
    """Return the package of a drawing, from `folder` or else from the npm registry."""
    name = f"emoji-datasource-{drawing}"
    path = folder / f"{name}-{VERSION}.tgz"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    print(f"fetching {name} {VERSION}", flush=True)
    command = ["npm", "pack", f"{name}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit(f"npm, which fetches {name}, is not installed\n  remedy: install it, or put {path.name} into {folder}")
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[0]
        sys.exit(
            f"the npm registry cannot be reached ({reason})\n"
            f"  remedy: `npm ping` tells why; or fetch {path.name} elsewhere and put it into {folder}"
        )
    return path


def read_package(path: Path, drawing: str) -> list[tuple[str, str, Image.Image]]:
    """Return category, file name and image of every emoji, on white."""
    found = []
    with tarfile.open(path) as package:
        for emoji in json.loads(_read(package, "package/emoji.json")):
            if emoji["category"] == _NO_CATEGORY or not emoji[f"has_img_{drawing}"]:
                continue
            category = re.sub(r"\W+", "_", emoji["category"].lower())
            image = Image.open(io.BytesIO(_read(package, f"package/img/{drawing}/64/{emoji['image']}"))).convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            found.append((category, emoji["image"], Image.alpha_composite(white, image).convert("RGB")))
    return found


def _read(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(name)
    if file is None:
        raise SystemExit(f"{package.name} does not hold {name}")
    return file.read()


def write_images(folder: Path, packages: Path, test_drawing: str) -> None:
    """Write `train/CATEGORY` of three drawings and `val/CATEGORY` of the fourth."""
    for drawing in DRAWINGS:
        split = "val" if drawing == test_drawing else "train"
        for category, name, image in read_package(fetch_package(drawing, packages), drawing):
            target = folder / split / category / f"{drawing}_{name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target)


def run(*arguments: str | Path) -> None:
    """Run a command and show it; stop if it fails."""
    shown = [str(argument) for argument in arguments]
    print(f"\n$ parnet-deploy {' '.join(shown)}", flush=True)
    done = subprocess.run([TOOL, *shown])
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Fetch, train, quantise and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/emoji"), help="Folder to write; it must not exist.")
    parser.add_argument("--packages", type=Path, default=Path("out/emoji-packages"), help="Where packages are kept.")
    parser.add_argument("--model", default="parnet_pico", help="A registered variant.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--checkpoint", type=Path, help="A network that was trained so before.")
    asked = parser.parse_args()
    out: Path = asked.output
    if out.exists():
        sys.exit(f"{out} exists\n  remedy: remove it, or pass another --output")
    images, trained = out / "images", asked.checkpoint or out / "emoji.safetensors"
    write_images(images, asked.packages, TEST_DRAWING)
    if asked.checkpoint is None:
        size = ("--resolution", "64", "--epochs", str(asked.epochs))
        run("train", "--data", images, "--model", asked.model, *size, "-o", trained)
    run("fuse", trained, "-o", out / "fused.safetensors")
    run("export", out / "fused.safetensors", "-o", out / "bundle", "--dynamic-batch", "1:8:16")
    for target, precision in FORMS:
        name = f"{target}_{precision}"
        run(
            "quantize", out / "bundle", "--data", images, "--target", target, "--precision", precision, "-o", out / name
        )
    run("build", out / "cpu_int8", "-o", out / "plan", "--backend", "onnxruntime")
    run("evaluate", out / "plan", images, "--held-out")


if __name__ == "__main__":
    main()
