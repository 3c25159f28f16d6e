"""Ask sessions from many threads, open and close plans along the way, and count what is held and what is answered."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count as counting
from pathlib import Path
from threading import Lock

import numpy as np

from parnet_deploy.errors import InferenceError
from parnet_deploy.runtime import Session

Images = np.ndarray

REQUESTS = 48
# One request in so many opens a plan of its own; one is refused; one asks for every tensor.
OPEN_EVERY, REFUSE_EVERY, STAGES_EVERY = 100, 97, 53
SAMPLES = 100
WARM_UP = 0.2
# How long threads that were told to end may take under load.
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Held:
    """What a process holds: resident memory that is in use, threads and open files."""

    rss_bytes: int
    threads: int
    files: int


@dataclass
class Soak:
    """Counts of a soak; `curve` is the memory after each hundredth of the inferences.

    `most_kept_bytes` is the most memory that was resident with what the allocator keeps free for its threads.
    """

    before: Held
    after: Held
    inferences: int = 0
    opened: int = 0
    refused: int = 0
    wrong: int = 0
    most_threads: int = 0
    most_kept_bytes: int = 0
    seconds: float = 0.0
    curve: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """How much the memory grew from the end of the warm-up to the end, as a share; means of a tenth each."""
        tenth = max(1, len(self.curve) // 10)
        start = int(len(self.curve) * WARM_UP)
        first = sum(self.curve[start : start + tenth]) / tenth
        return sum(self.curve[-tenth:]) / tenth / first - 1


def resident_bytes() -> int:
    """Read from /proc how much memory of this process is resident."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@cache
def _trim() -> Callable[[int], int]:
    """Return the C library's function that gives free memory back to the system; one that has none keeps it."""
    found: Callable[[int], int] = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)
    return found


def held() -> Held:
    """Read what this process holds, without what its allocator keeps free: how much that is depends on timing."""
    _trim()(0)
    descriptors = len(os.listdir("/proc/self/fd"))
    return Held(resident_bytes(), len(os.listdir("/proc/self/task")), descriptors)


def held_when_settled(like: Held) -> Held:
    """Return what is held once the threads are no more than they were, or when the patience is over."""
    deadline = time.monotonic() + PATIENCE_S
    while (now := held()).threads > like.threads and time.monotonic() < deadline:
        time.sleep(0.01)
    return now


def requests_for(session: Session) -> list[Images]:
    """Return requests of one image up to more than a batch holds."""
    random = np.random.default_rng(0)
    shape, most = session.plan.preprocessing.input_size, session.plan.batch.max + 2
    return [random.standard_normal((1 + index % most, *shape)).astype(np.float32) for index in range(REQUESTS)]


def soak(
    plans: Sequence[Path], count: int, threads: int, on_sample: Callable[[int, int], None] = lambda _done, _rss: None
) -> Soak:
    """Run `count` inferences over all plans from `threads` threads; every answer must be the first one's, to the bit.

    `on_sample` is called with the inferences done and the resident bytes, `SAMPLES` times.
    """
    for plan in plans:  # what is loaded once and for all
        Session.open(plan).close()
    before = held()
    result = Soak(before, before)
    start = time.monotonic()
    with ExitStack() as stack:
        sessions = [stack.enter_context(Session.open(plan, pipelines=2)) for plan in plans]
        requests = [requests_for(session) for session in sessions]
        expected = [[s.infer(images) for images in of] for s, of in zip(sessions, requests, strict=True)]
        asker = _Asker(plans, sessions, requests, expected, result, count, on_sample)
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(asker.serve) for _ in range(threads)]:
                future.result()
    result.seconds = time.monotonic() - start
    result.after = held_when_settled(before)
    return result


class _Asker:
    """What the threads share: the sessions, the right answers and the counts."""

    def __init__(
        self,
        plans: Sequence[Path],
        sessions: Sequence[Session],
        requests: Sequence[Sequence[Images]],
        expected: Sequence[Sequence[Images]],
        result: Soak,
        count: int,
        on_sample: Callable[[int, int], None],
    ) -> None:
        self.plans, self.sessions, self.requests, self.expected = plans, sessions, requests, expected
        self.result, self.count, self.on_sample = result, count, on_sample
        self.numbers = counting()
        self.lock = Lock()
        self.every = max(1, count // SAMPLES)

    def serve(self) -> None:
        """Ask until as many inferences as wanted are done by all threads together."""
        while (number := next(self.numbers)) < self.count:
            which, index = number % len(self.plans), number // len(self.plans) % REQUESTS
            images = self.requests[which][index]
            answer, opened = self._ask(number, which, images)
            is_right = np.array_equal(answer, self.expected[which][index])
            was_refused = number % REFUSE_EVERY == 0 and self._is_refused(which)
            with self.lock:
                self._count(is_right=is_right, opened=opened, was_refused=was_refused)

    def _ask(self, number: int, which: int, images: Images) -> tuple[Images, bool]:
        if number % OPEN_EVERY == 0:
            with Session.open(self.plans[which]) as session:
                return session.infer(images), True
        session = self.sessions[which]
        if number % STAGES_EVERY == 0:
            return session.infer_stages(images)[session.plan.output], False
        return session.infer(images), False

    def _is_refused(self, which: int) -> bool:
        with suppress(InferenceError):
            self.sessions[which].infer(np.zeros((1, 1, 1, 1), np.float32))
            return False
        return True

    def _count(self, *, is_right: bool, opened: bool, was_refused: bool) -> None:
        result = self.result
        result.inferences += 1
        result.opened += opened
        result.refused += was_refused
        result.wrong += not is_right
        if result.inferences % self.every == 0:
            result.most_kept_bytes = max(result.most_kept_bytes, resident_bytes())
            now = held()
            result.curve.append(now.rss_bytes)
            result.most_threads = max(result.most_threads, now.threads)
            self.on_sample(result.inferences, now.rss_bytes)
