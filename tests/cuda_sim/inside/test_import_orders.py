"""torch and both adapters in one process, imported and used in the order that the run outside asks for."""

from __future__ import annotations

import os
from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from parnet_deploy.runtime.cuda.driver import Driver, open_driver
from parnet_deploy.runtime.cuda.objects import Buffer, Context, Event, PinnedBuffer, Stream

VALUES = np.arange(100, dtype=np.float32)


class Torch:
    """torch, which looks for GPUs by the CUDA runtime that it brings along, and computes on the processor."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        # The runtime asks more of a driver than the one in host memory has, and must say so without harm.
        with pytest.warns(UserWarning, match="not supported in the installed CUDA driver"):
            assert not torch.cuda.is_available()
        self.answer = self.compute()

    def compute(self) -> bytes:
        torch = self.torch
        with torch.inference_mode():
            image = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)
            data: bytes = torch.conv2d(image, image[:, :, :3, :3]).numpy().tobytes()
        return data

    def check(self) -> None:
        assert self.compute() == self.answer


def there_and_back(context: Context, torch: Torch) -> None:
    """Bring numbers to the device and back, while torch computes."""
    with context:
        stream, buffer, event = Stream(context), Buffer(context, VALUES.nbytes), Event(context)
        source, target = PinnedBuffer(context, VALUES.nbytes), PinnedBuffer(context, VALUES.nbytes)
        source.array(VALUES.shape, "float32")[...] = VALUES
        stream.upload(buffer, source, VALUES.nbytes)
        torch.check()
        stream.record(event)
        stream.download(target, buffer, VALUES.nbytes)
        event.synchronize()
        stream.synchronize()
    np.testing.assert_array_equal(target.array(VALUES.shape, "float32"), VALUES)


def test_contexts_are_made_used_and_given_back_in_any_order(sim: Any, counts: Counter[str]) -> None:
    made: dict[str, Any] = {}
    for name in os.environ["CUDASIM_IMPORTS"].split(","):
        made[name] = Torch() if name == "torch" else open_driver(name)
    torch: Torch = made.pop("torch")
    drivers: list[Driver] = list(made.values())
    for opening in permutations(drivers):
        for closing in permutations(drivers):
            contexts = {driver.name: Context(driver, 0) for driver in opening}
            # The primary context is one for all, and current for whoever asks.
            assert len({context.handle for context in contexts.values()}) == 1
            for context in contexts.values():
                there_and_back(context, torch)
            with contexts[opening[0].name], contexts[opening[1].name]:
                there_and_back(contexts[closing[0].name], torch)
            for driver in closing:
                contexts[driver.name].close()
            assert sim.live() == {}
            torch.check()
            counts["orders of making and giving back contexts"] += 1
