"""Read files of weights without holding them in memory twice: mapped, and given back page by page."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np
from numpy.typing import NDArray

# How often pages that were read are given back: at 2 GB/s some 40 MB are read in between.
_INTERVAL_S = 0.02


class MappedFile:
    """A file's bytes as an array that the system reads when they are looked at.

    The array says that it can be written to, because OpenVINO takes no other; what would be written goes to private
    pages, and is lost when pages are given back. So it is for readers only.
    """

    def __init__(self, path: Path) -> None:
        """Map a file; raise `OSError` or, for an empty file, `ValueError`."""
        with path.open("rb") as file:
            self._pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.array: NDArray[np.uint8] = np.frombuffer(self._pages, np.uint8)

    def give_back(self) -> None:
        """Drop the pages that were read from this process's memory; looked at again, they are read again."""
        if sys.platform == "linux":
            self._pages.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def giving_back(self) -> Iterator[None]:
        """Give pages back while the block reads them, so that the file is never in memory as a whole."""
        is_done = Event()

        def serve() -> None:
            while not is_done.wait(_INTERVAL_S):
                self.give_back()

        server = Thread(target=serve, name="pages", daemon=True)
        server.start()
        try:
            yield
        finally:
            is_done.set()
            server.join()
            self.give_back()
