"""Image folders: `DIR/train/CLASS/*.jpg` with `DIR/val` (or `validation`, `test`), or `DIR/CLASS/*.jpg` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from parnet_deploy.datasets.images import ImageDataset, ImageSplit, split_stratified
from parnet_deploy.errors import DataError

HELD_OUT = 0.2
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_TRAIN = "train"
_TEST = ("val", "validation", "test")
_SPLIT_SEED = 0
_LAYOUT = "lay images out as DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg, or as DIR/CLASS/*.jpg to be split 80/20"


def load_folder(folder: Path) -> ImageDataset:
    """Read an image folder; its classes are the sub-folders' names in alphabetical order. No image is decoded yet.

    Without a `train` folder, each class is split by a fixed draw: four fifths for training, the rest held out.

    Raises:
        DataError: missing, empty, fewer than two classes, a class without images, no held-out split, or a held-out
            class that training does not have.
    """
    if not folder.is_dir():
        raise DataError("no such folder of images", where=folder, remedy="pass 'digits' or a folder")
    name = folder.resolve().name
    if not (folder / _TRAIN).is_dir():
        return _split_classes(name, folder)
    held_out = next((folder / part for part in _TEST if (folder / part).is_dir()), None)
    if held_out is None:
        raise DataError(f"has {_TRAIN} but none of {', '.join(_TEST)}", where=folder, remedy=_LAYOUT)
    train, test = _read_classes(folder / _TRAIN), _read_classes(held_out)
    label_names = _check_classes(train, folder / _TRAIN)
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise DataError(
            f"class {unknown[0]!r} is not in {_TRAIN}", where=held_out, remedy=f"the classes are {_few(label_names)}"
        )
    if not test:
        raise DataError("has no folder of images per class", where=held_out, remedy=_LAYOUT)
    return ImageDataset(name, label_names, _join(train, label_names), _join(test, label_names))


def _split_classes(name: str, folder: Path) -> ImageDataset:
    classes = _read_classes(folder)
    label_names = _check_classes(classes, folder)
    lonely = next((label for label in label_names if len(classes[label]) < 2), None)
    if lonely is not None:
        raise DataError(
            "has one image, which cannot be both trained on and held out", where=folder / lonely, remedy="add images"
        )
    everything = _join(classes, label_names)
    return ImageDataset(
        name,
        label_names,
        *(
            ImageSplit([everything.sources[i] for i in part], tuple(everything.labels[i] for i in part))
            for part in split_stratified(everything.labels, HELD_OUT, _SPLIT_SEED)
        ),
    )


def _read_classes(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each sub-folder, at any depth below it; hidden folders and files do not count."""
    found: dict[str, list[Path]] = {}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot be listed ({error.strerror})", where=folder, remedy="check permissions") from error
    for entry in entries:
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        found[entry.name] = sorted(
            file
            for file in entry.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file()
        )
        if not found[entry.name]:
            raise DataError(f"no {_few(sorted(IMAGE_SUFFIXES))} file in this class", where=entry, remedy=_LAYOUT)
    return found


def _check_classes(classes: dict[str, list[Path]], folder: Path) -> tuple[str, ...]:
    if not classes:
        raise DataError("has no folder of images per class", where=folder, remedy=_LAYOUT)
    if len(classes) == 1:
        raise DataError(f"has one class only, {next(iter(classes))!r}", where=folder, remedy=_LAYOUT)
    return tuple(classes)


def _join(classes: dict[str, list[Path]], label_names: Sequence[str]) -> ImageSplit:
    pairs = [(file, label) for label, name in enumerate(label_names) for file in classes.get(name, [])]
    return ImageSplit([file for file, _ in pairs], tuple(label for _, label in pairs))


def _few(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", .." if len(names) > count else "")
