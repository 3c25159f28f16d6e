"""What is measured: a function from a batch of images to answers, and how its failures are reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.errors import InferenceError, ParNetError

Images = NDArray[np.float32]
Infer = Callable[[Images], object]


def raise_failure(error: Exception) -> NoReturn:
    """Raise what an inference failed with: an error of ours as it is, any other as `InferenceError`."""
    if isinstance(error, ParNetError):
        raise error
    raise InferenceError(f"an inference failed ({type(error).__name__}: {error})") from error
