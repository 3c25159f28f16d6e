"""What a request costs beside its engines: the calls that are made for it, counted, not timed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

import parnet_deploy
from parnet_deploy.runtime import Session
from parnet_deploy.runtime.cpu import CpuPipeline

MakePlan = Callable[..., Path]
PACKAGE = str(Path(parnet_deploy.__file__).parent)

# The way of a request, once each; a view of the input's memory and one of the output's.
SESSION = Counter(["infer", "_checked", "_run_batches", "_take", "is_stopped", "_give_back", "_fill", "view", "view"])
PIPELINE = Counter(["run", "_run", "_programs_for", "_execute"])


def calls_of(call: Callable[[], object]) -> tuple[Counter[str], int]:
    """Return our own functions that this thread entered, and how many functions of C it called from them."""
    entered: Counter[str] = Counter()
    built_in = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal built_in
        if frame.f_code.co_filename.startswith(PACKAGE):
            if event == "call":
                entered[frame.f_code.co_name] += 1
            built_in += event == "c_call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return entered, built_in


@pytest.mark.parametrize(("cut", "at_home"), [("whole", 1), ("diamond", 3)])
def test_a_request_enters_each_function_once(make_plan: MakePlan, cut: str, at_home: int) -> None:
    """Stages of other lanes are launched by other threads; of the diamond one of four is."""
    image = np.ones((1, 3, 16, 16), np.float32)
    with Session.open(make_plan(cut, backend="null")) as session:
        session.warm_up()
        entered, built_in = calls_of(lambda: session.infer(image))
        again, _ = calls_of(lambda: session.infer(image))
    # `run` is the pipeline's and each engine's.
    launches = Counter({"_launch": at_home, "run": at_home})
    assert entered == again == SESSION + PIPELINE + launches
    # The two queues of the session, an empty array, the signals between lanes, and little else.
    assert built_in <= 20


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_work_grows_with_batches_and_not_with_images(make_plan: MakePlan, count: int) -> None:
    plan = make_plan("whole", backend="null", batch=(1, 4, 4))
    images = np.ones((count, 3, 16, 16), np.float32)
    with Session.open(plan) as session:
        for size in range(1, 5):
            session.infer(images[:size])
        entered, _ = calls_of(lambda: session.infer(images))
    batches = -(-count // 4)
    assert entered["_execute"] == entered["_launch"] == entered["_fill"] == batches
    assert entered["infer"] == entered["_checked"] == entered["_run_batches"] == 1
    # Binding is not done again, nor anything else that a first request of a size does.
    assert entered["_bind"] == 0


def test_a_request_copies_its_image_and_its_logits_and_nothing_else(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines are bound over the memory that requests are written to, the same for every request."""
    seen: list[tuple[str, int, int]] = []
    view = CpuPipeline.view

    def noted(self: CpuPipeline, tensor: str, rows: int) -> np.ndarray:
        found = view(self, tensor, rows)
        seen.append((tensor, rows, found.ctypes.data))
        return found

    image = np.ones((1, 3, 16, 16), np.float32)
    with Session.open(make_plan("diamond", backend="null")) as session:
        session.infer(image)
        monkeypatch.setattr(CpuPipeline, "view", noted)
        session.infer(image)
        session.infer(image)
    assert [(tensor, rows) for tensor, rows, _ in seen] == [("image", 1), ("logits", 1)] * 2
    assert seen[:2] == seen[2:]
