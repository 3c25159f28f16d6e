"""Turn image files into what a network takes: timm's evaluation transform, on Pillow and NumPy alone.

The numbers are those of `timm.data.create_transform(is_training=False)` with torchvision's `Resize`, `CenterCrop`,
`ToTensor` and `Normalize` on Pillow images, to the bit. As there, the orientation tag of EXIF is not looked at.

JPEG files can be decoded at a fraction of their size (`scaled`), which libjpeg does within its inverse DCT. It is
never less than three times the size that they are resized to; colour values of photographs are then off by at most 2 of
255 on average, single ones by up to 32. Twelve megapixels take 33 ms instead of 98; 0.2, as in ImageNet, 3 either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.errors import DataError

IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_MODES = {1: "L", 3: "RGB"}
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# Pillow's own limit against decompression bombs; a warning there, an error here.
_MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
# At twice the size the mean error would be 4 and single values off by 45; at once the size, 5 and 130.
_SCALED_MARGIN = 3


def _mode_for(preprocessing: Preprocessing) -> str:
    channels = preprocessing.input_size[0]
    if channels not in _MODES:
        raise DataError(
            f"an image has 1 or 3 channels, and the network takes {channels}",
            remedy="pass arrays instead, from Python: Session.infer",
        )
    return _MODES[channels]


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8 bits of grey or RGB; transparency is dropped, as the training transforms do."""
    if image.mode == "F":
        raise DataError("an image of 32-bit floats has no known range", remedy="convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        # 16-bit grey, which Pillow would clip to 255.
        values = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the width and height to resize to, so that the crop's size divided by `crop_pct` just fits in."""
    target_height, target_width = (
        math.floor(extent / preprocessing.crop_pct) for extent in preprocessing.input_size[1:]
    )
    if target_height == target_width:
        # torchvision's rule for a square: the short side exactly, the long side rounded down.
        short, long = sorted((width, height))
        new_long = int(target_height * long / short)
        size = (target_height, new_long) if width <= height else (new_long, target_height)
    else:
        # timm's rule for the rest: both sides by the smaller ratio, rounded to nearest.
        ratio = min(height / target_height, width / target_width)
        size = (round(width / ratio), round(height / ratio))
    if size[0] * size[1] > _MAX_PIXELS:
        raise DataError(f"an image of {width}x{height} is too narrow to be resized", remedy="crop it")
    return size


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the network's input for one image, float32 [C, H, W].

    A network with one channel takes the image in grey, with the first `mean` and `std`.

    Raises:
        DataError: an image of floats, one too narrow to be resized, or a network of neither 1 nor 3 channels.
    """
    return _preprocess_to(_resized_size(*image.size, preprocessing), image, preprocessing)


def _preprocess_to(size: tuple[int, int], image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    image = _converted(image, _mode_for(preprocessing))
    if size != image.size:
        image = image.resize(size, _RESAMPLING[preprocessing.interpolation])
    channels, height, width = preprocessing.input_size
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height))).reshape(height, width, channels)
    # The order of operations and the dtype are torchvision's.
    values = pixels.transpose(2, 0, 1).astype(np.float32, order="C")
    values /= np.float32(255)
    values -= np.asarray(preprocessing.mean[:channels], np.float32)[:, None, None]
    values /= np.asarray(preprocessing.std[:channels], np.float32)[:, None, None]
    return values


def load_image(path: Path, preprocessing: Preprocessing, *, scaled: bool = False) -> NDArray[np.float32]:
    """Read and preprocess one image file; raise `DataError` naming it if that is not possible.

    With `scaled` a JPEG file is decoded at a fraction of its size, where it is large enough for that.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise DataError(
                    f"{image.width}x{image.height} pixels are more than is safe to decode",
                    remedy=f"scale it down to {_MAX_PIXELS} pixels or fewer",
                )
            size = _resized_size(*image.size, preprocessing)
            if scaled and preprocessing.interpolation != "nearest":
                # Does nothing to files that are not JPEG.
                image.draft(None, (_SCALED_MARGIN * size[0], _SCALED_MARGIN * size[1]))
            return _preprocess_to(size, image, preprocessing)
    except DataError as error:
        raise DataError(error.what, where=path, remedy=error.remedy) from error
    except OSError as error:
        reason = error.strerror or "not an image that Pillow can read, or cut short"
        raise DataError(reason, where=path, remedy="check the file") from error
    # Decoders of damaged files raise nearly anything: SyntaxError, ValueError, struct.error, DecompressionBombError.
    except Exception as error:
        raise DataError(f"cannot be decoded ({error})", where=path, remedy="check the file") from error


def load_images(paths: Sequence[Path], preprocessing: Preprocessing, *, scaled: bool = False) -> NDArray[np.float32]:
    """Read and preprocess image files, float32 [N, C, H, W]; raise `DataError` naming the first that cannot be."""
    if not paths:
        raise DataError("no images", remedy="pass at least one image file")
    return np.stack([load_image(path, preprocessing, scaled=scaled) for path in paths])


def find_images(path: Path) -> tuple[Path, ...]:
    """Return the image files of a folder and its sub-folders in the order of their paths, or the file itself.

    Raises:
        DataError: no such file or folder, or a folder without images.
    """
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise DataError("no such file or folder", where=path, remedy="pass an image file or a folder of images")
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("the folder holds no images", where=path, remedy=f"known suffixes: {suffixes}")
    return tuple(found)
