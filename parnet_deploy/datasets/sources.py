"""Turn what a person names on the command line into a data set."""

from __future__ import annotations

from pathlib import Path

from parnet_deploy.datasets.digits import load_digits
from parnet_deploy.datasets.folder import load_folder
from parnet_deploy.datasets.images import ImageDataset


def load_dataset(spec: str | Path) -> ImageDataset:
    """Return `digits`, or the image folder at the path; raise `DataError` if it is none."""
    return load_digits() if str(spec) == "digits" else load_folder(Path(spec))
