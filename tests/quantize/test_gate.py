"""The gate: counted by hand, and what its interval covers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from parnet_deploy.artifacts.quantization import ImageSet
from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.datasets.images import ImageSplit
from parnet_deploy.quantize.data import Part
from parnet_deploy.quantize.gate import Gate, answer, is_passed, paired_interval, refuse

PREPROCESSING = Preprocessing(input_size=(3, 4, 4), mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)


def part_of(labels: tuple[int, ...] | None, count: int) -> Part:
    pictures = [Image.new("RGB", (4, 4), (index, 0, 0)) for index in range(count)]
    return Part("drawn", ImageSplit(pictures, (0,) * count), tuple(range(count)), labels, PREPROCESSING)


def gate_of(labels: tuple[int, ...] | None, before: list[int], max_drop: float = 0.5) -> Gate:
    images = ImageSet(source="drawn", count=len(before), sha256="0" * 64)
    return Gate(part_of(labels, len(before)), images, np.array(before), max_drop)


def test_accuracy_by_hand() -> None:
    labels = (0, 1, 2, 0, 1, 2, 0, 1)
    before = [0, 1, 2, 0, 0, 0, 0, 1]  # wrong on the fifth and the sixth
    after = [0, 1, 0, 1, 1, 2, 1, 1]  # breaks the third, fourth and seventh, mends the fifth and sixth
    record = gate_of(labels, before).judge(np.array(after))
    assert (record.criterion, record.before, record.after) == ("accuracy", 75.0, 62.5)
    assert (record.broken, record.mended, record.drop, record.resolution) == (3, 2, 12.5, 12.5)
    assert not is_passed(record)
    assert "75.00% to 62.50% on 8 images" in str(refuse(record, 0, 0.0))
    assert "with 2 layers (10% of the operations) left in float" in str(refuse(record, 2, 0.1))


def test_without_labels_agreement_counts() -> None:
    record = gate_of(None, [3, 3, 1, 0]).judge(np.array([3, 2, 1, 0]))
    assert (record.criterion, record.before, record.after, record.drop) == ("agreement", 100.0, 75.0, 25.0)
    assert (record.broken, record.mended) == (1, 0)


def test_exactly_as_much_as_may_be_lost_passes() -> None:
    labels = tuple([0] * 200)
    before = [0] * 200
    for broken, passes in ((0, True), (1, True), (2, False)):
        after = np.array([1] * broken + [0] * (200 - broken))
        assert is_passed(gate_of(labels, before, 0.5).judge(after)) == passes
    assert not is_passed(gate_of(labels, before, -0.1).judge(np.array(before)))


def test_interval_by_hand() -> None:
    # (10.5 - 5.5) / 102 +- 1.96 sqrt(16 / 102 - (5 / 102)^2) / sqrt(102)
    low, high = paired_interval(10, 5, 100)
    assert low == pytest.approx(100 * (0.0490196 - 1.959964 * 0.3930110 / 10.0995049), abs=1e-4)
    assert high == pytest.approx(100 * (0.0490196 + 1.959964 * 0.3930110 / 10.0995049), abs=1e-4)
    low, high = paired_interval(0, 0, 359)
    assert low == -high < 0


@pytest.mark.parametrize(("break_rate", "mend_rate"), [(0.01, 0.01), (0.03, 0.01), (0.005, 0.001)])
def test_interval_covers_the_true_drop_as_often_as_it_says(break_rate: float, mend_rate: float) -> None:
    count, trials = 1000, 4000
    draws = np.random.default_rng(0).multinomial(count, [break_rate, mend_rate, 1 - break_rate - mend_rate], trials)
    truth = 100 * (break_rate - mend_rate)
    covered = [low <= truth <= high for low, high in (paired_interval(int(b), int(m), count) for b, m, _ in draws)]
    assert np.mean(covered) > 0.93


def test_answers_are_in_order() -> None:
    seen: list[int] = []
    # A predictor that answers with the image's red, which is its number.
    found = answer(
        part_of(None, 20), lambda batch: np.eye(32)[np.rint(batch[:, 0, 0, 0] * 255).astype(int)], seen.append
    )
    assert found.tolist() == list(range(20))
    assert sum(seen) == 20
