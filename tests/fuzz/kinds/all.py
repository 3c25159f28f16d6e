"""Every case, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.case import Case
from tests.fuzz.kinds import (
    arguments,
    control,
    damage,
    graphs,
    headers,
    manifests,
    numbers,
    outputs,
    pickles,
    pictures,
    rivals,
    struck,
    texts,
)
from tests.fuzz.originals import Originals

GENERATORS = (
    control,
    damage,
    manifests,
    pickles,
    headers,
    graphs,
    pictures,
    texts,
    numbers,
    arguments,
    outputs,
    struck,
    rivals,
)


def all_cases(originals: Originals) -> Iterator[Case]:
    """Yield the cases of all kinds."""
    for generator in GENERATORS:
        yield from generator.cases(originals)
