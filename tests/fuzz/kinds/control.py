"""Good input: every command that the other cases spoil must succeed when nothing is spoiled."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.case import Case
from tests.fuzz.kinds.damage import READERS
from tests.fuzz.originals import WRITERS, Originals

_DONE = frozenset({"done"})


def cases(_originals: Originals) -> Iterator[Case]:
    """Yield every reader and every writer as they are."""
    for readers in READERS.values():
        for reader in readers:
            name = " ".join(reader.argv)
            yield Case("control", name, reader.argv, reader.uses, outputs=reader.outputs, ends=_DONE)
    for writer in WRITERS:
        kept = writer.outputs + writer.leaves
        yield Case("control", f"{writer.name} writes", writer.argv, writer.uses, outputs=kept, ends=_DONE)
