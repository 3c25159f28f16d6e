"""What a session needs of an executor, on the processor and on GPUs alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from parnet_deploy.engines.base import Array
from parnet_deploy.planning.timeline import Span

# Batch sizes whose bindings a pipeline keeps; the memory is the same for all of them.
BOUND_BATCH_SIZES = 8


def close_all(closers: Sequence[Callable[[], None]]) -> None:
    """Call all of them, the last first, and raise the first error that any of them raised once all were called."""
    errors: list[Exception] = []
    for close in reversed(closers):
        try:
            close()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


class Pipeline(Protocol):
    """Memory for every tensor of a plan and engines bound to it; serves one request at a time."""

    @property
    def is_stopped(self) -> bool:
        """Whether the pipeline can serve no more requests."""

    def view(self, tensor: str, rows: int) -> Array:
        """Return the first `rows` samples of a tensor in the host's memory, which the next request overwrites."""

    def run(self, batch: int) -> None:
        """Run the plan on the first `batch` samples of the input's memory.

        Raises:
            InferenceError: a stage failed; the pipeline stays usable, or says that it is stopped.
        """

    def profile(self, batch: int) -> tuple[Span, ...]:
        """Run as `run` does and return when each stage and copy ran, in the order in which they ended.

        Times are milliseconds since the call.
        """

    def stop(self, *, wait: bool = True) -> None:
        """End threads and free memory; stopping twice is fine."""


class Executor(Protocol):
    """The loaded engines of a plan, and the devices that they are on."""

    def create_pipeline(self) -> Pipeline:
        """Return a pipeline of its own memory over the engines.

        Raises:
            EngineError: a device has no memory left, or does not answer.
        """

    def close(self) -> None:
        """Give up engines and devices, once every pipeline is stopped."""
