"""The stratified split and the decoding of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from parnet_deploy.datasets.images import ImageSplit, read_image, split_stratified
from parnet_deploy.errors import DataError


@given(st.lists(st.integers(0, 5), max_size=80), st.floats(0.05, 0.9), st.integers(0, 9))
def test_every_index_is_in_one_part_and_every_class_is_held_out(labels: list[int], share: float, seed: int) -> None:
    train, test = split_stratified(labels, share, seed)
    assert sorted(train + test) == list(range(len(labels)))
    assert train == sorted(train)
    assert test == sorted(test)
    for label in set(labels):
        held_out = sum(labels[index] == label for index in test)
        assert held_out == max(1, round(share * labels.count(label)))


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    labels = [0] * 10 + [1] * 5
    assert split_stratified(labels, 0.2, 0) == split_stratified(labels, 0.2, 0)
    assert split_stratified(labels, 0.2, 0)[1] == [2, 8, 11]
    assert split_stratified(labels, 0.2, 1)[1] == [2, 9, 13]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.png"
    Image.new(mode, (5, 3), 1).save(path)
    image = ImageSplit([path], (0,)).image(0)
    assert (image.mode, image.size) == ("RGB", (5, 3))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.png"
    text.write_text("no image")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    for path in (text, cut, tmp_path / "missing.png"):
        with pytest.raises(DataError) as caught:
            read_image(path)
        assert caught.value.where == str(path)
