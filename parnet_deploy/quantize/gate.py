"""Hold a quantised network against the float one on images that it was not made with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.quantization import GateRecord, ImageSet
from parnet_deploy.errors import CheckFailedError
from parnet_deploy.quantize.data import Part
from parnet_deploy.quantize.grids import Array

Answers = NDArray[np.intp]

_BATCH = 16
# The normal distribution's quantile of a two-sided 95% interval.
_Z95 = 1.959964


def answer(part: Part, predict: Callable[[Array], Array], advance: Callable[[int], None]) -> Answers:
    """Return the most likely class of every image."""
    answers = []
    for images in part.batches(_BATCH):
        answers.append(predict(images).argmax(axis=1))
        advance(len(images))
    return np.concatenate(answers)


@dataclass(frozen=True)
class Gate:
    """Images, the float network's answers to them, and how many points may be lost."""

    part: Part
    images: ImageSet
    before: Answers
    max_drop: float

    def judge(self, after: Answers) -> GateRecord:
        """Compare answers image by image: by their labels, or where there are none by the float network's answers."""
        truth = self.before if self.part.labels is None else np.array(self.part.labels)
        right_before, right_after = self.before == truth, after == truth
        broken = int((right_before & ~right_after).sum())
        mended = int((~right_before & right_after).sum())
        count = len(after)
        return GateRecord(
            criterion="agreement" if self.part.labels is None else "accuracy",
            images=self.images,
            before=100 * float(right_before.mean()),
            after=100 * float(right_after.mean()),
            broken=broken,
            mended=mended,
            drop=100 * (broken - mended) / count,
            interval=paired_interval(broken, mended, count),
            resolution=100 / count,
            max_drop=self.max_drop,
        )


def is_passed(record: GateRecord) -> bool:
    """Whether no more is lost than may be; rounding of the percentages does not decide."""
    return record.drop <= record.max_drop + 1e-9


def paired_interval(broken: int, mended: int, count: int) -> tuple[float, float]:
    """Return the 95% confidence interval of the drop, in points, for paired images (Agresti and Min 2005).

    Only images whose answer changed tell anything; half an image is added to each of the four cells, so that none
    changed does not mean that none ever would. It rests on the normal distribution: where hardly an image changes, it
    is too narrow upwards.
    """
    total = count + 2
    lost, gained = broken + 0.5, mended + 0.5
    difference = (lost - gained) / total
    spread = _Z95 * math.sqrt((lost + gained) / total - difference**2) / math.sqrt(total)
    return 100 * (difference - spread), 100 * (difference + spread)


def refuse(record: GateRecord, float_layers: int, float_share: float) -> CheckFailedError:
    """Return the error of a network that does not pass."""
    what = "top-1 accuracy" if record.criterion == "accuracy" else "top-1 agreement with the float network"
    left = f", with {float_layers} layers ({float_share:.0%} of the operations) left in float" if float_layers else ""
    return CheckFailedError(
        f"{what} drops by {record.drop:.2f} points from {record.before:.2f}% to {record.after:.2f}% on "
        f"{record.images.count} images{left}; at most {record.max_drop:g} may be lost",
        remedy="nothing was written; calibrate on images like those that the network is for, leave more in float with "
        "--max-float-share, or allow more with --max-drop",
    )
