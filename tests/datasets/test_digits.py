"""The digits: what the pixels are, and that the split never changes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits as load_bundled

from parnet_deploy.datasets.digits import digits_split, load_digits
from parnet_deploy.datasets.sources import load_dataset
from parnet_deploy.errors import MissingDependencyError


def test_all_images_are_in_one_split_each() -> None:
    digits = load_digits()
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    assert digits.label_names == tuple("0123456789")
    assert set(Counter(digits.test.labels).values()) == {35, 36, 37}
    ours = Counter(
        (np.asarray(split.image(index)).tobytes(), split.labels[index])
        for split in (digits.train, digits.test)
        for index in range(len(split))
    )
    bundled = load_bundled()
    theirs = Counter(
        (np.repeat(np.rint(image * 255 / 16).astype(np.uint8)[..., None], 3, axis=2).tobytes(), int(label))
        for image, label in zip(bundled.images, bundled.target, strict=True)
    )
    assert ours == theirs


def test_counts_of_0_to_16_become_eight_bits() -> None:
    train = load_digits().train
    pixels = np.stack([np.asarray(train.image(index)) for index in range(len(train))])
    assert (pixels.shape, pixels.dtype) == ((1438, 8, 8, 3), np.uint8)
    scale = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert np.unique(pixels).tolist() == scale


def test_the_held_out_images_are_always_the_same() -> None:
    # A checkpoint that was trained elsewhere must never be evaluated on what it was trained on.
    images, labels = digits_split("test")
    assert labels[:12] == [3, 7, 3, 9, 0, 8, 7, 0, 8, 0, 3, 3]
    assert int(np.stack([np.asarray(image) for image in images]).astype(np.int64).sum()) == 5_330_133


def test_the_name_digits_gives_the_digits() -> None:
    assert load_dataset("digits").name == "digits"


def test_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match="scikit-learn"):
        load_digits()


def test_reading_data_sets_needs_no_torch() -> None:
    code = "import sys; from parnet_deploy.datasets import sources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
