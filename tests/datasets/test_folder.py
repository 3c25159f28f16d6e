"""Image folders: the layouts that are read, and what is said about the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from parnet_deploy.datasets.folder import load_folder
from parnet_deploy.datasets.sources import load_dataset
from parnet_deploy.errors import DataError


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)


@pytest.mark.parametrize("held_out", ["val", "validation", "test"])
def test_a_folder_with_both_parts(tmp_path: Path, held_out: str) -> None:
    write(tmp_path, "train/dog/a.png", "train/dog/deep/b.JPG", "train/cat/c.jpeg", f"{held_out}/dog/d.png")
    write(tmp_path, "train/.cache/e.png", "train/cat/._c.jpeg.png")
    (tmp_path / "train/cat/notes.txt").write_text("not an image")
    data = load_dataset(tmp_path)
    assert data.name == tmp_path.name
    assert data.label_names == ("cat", "dog")
    assert data.train.labels == (0, 1, 1)
    assert [Path(str(path)).name for path in data.train.sources] == ["c.jpeg", "a.png", "b.JPG"]
    assert data.test.labels == (1,)
    assert data.test.image(0).size == (4, 4)


def test_val_is_preferred_to_test(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png", "val/a/v.png", "test/a/t.png")
    assert [Path(str(path)).name for path in load_folder(tmp_path).test.sources] == ["v.png"]


def test_a_folder_of_classes_is_split_the_same_way_each_time(tmp_path: Path) -> None:
    write(tmp_path, *(f"{label}/{index}.png" for label in "ab" for index in range(10)))
    data = load_folder(tmp_path)
    assert data.train.labels == (0,) * 8 + (1,) * 8
    assert data.test.labels == (0, 0, 1, 1)
    assert not set(data.train.sources) & set(data.test.sources)
    assert load_folder(tmp_path).test.sources == data.test.sources


def _without_images(root: Path) -> None:
    write(root, "a/1.png", "a/2.png")
    (root / "b").mkdir()


@pytest.mark.parametrize(
    ("make", "where", "what"),
    [
        (lambda root: root.touch(), "", "no folder of images per class"),
        (lambda root: write(root, "loose.png"), "", "no folder of images per class"),
        (lambda root: write(root, "a/1.png", "a/2.png"), "", "one class only, 'a'"),
        (_without_images, "b", "file in this class"),
        (lambda root: write(root, "a/1.png", "a/2.png", "b/1.png"), "b", "one image"),
        (lambda root: write(root, "train/a/1.png", "train/b/1.png"), "", "none of val, validation, test"),
        (lambda root: write(root, "train/a/1.png", "val/a/1.png"), "train", "one class only, 'a'"),
        (lambda root: write(root, "train/a/1.png", "train/b/1.png", "val/c/1.png"), "val", "class 'c' is not in train"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, make: Callable[[Path], None], where: str, what: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=what) as caught:
        load_folder(tmp_path)
    assert caught.value.where == str(tmp_path / where)


def test_an_empty_held_out_part_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train/a/1.png", "train/b/1.png")
    (tmp_path / "val").mkdir()
    with pytest.raises(DataError, match="no folder of images per class"):
        load_folder(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_dataset(str(tmp_path / "nowhere"))
