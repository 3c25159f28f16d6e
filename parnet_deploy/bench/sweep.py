"""Which points a sweep measures: how many clients, and how many samples they send at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import BatchRange
from parnet_deploy.errors import InferenceError


@dataclass(frozen=True)
class SweepOptions:
    """The clients to try, and the batch sizes; without these every plan is tried at sizes of its own range."""

    concurrencies: tuple[int, ...]
    batches: tuple[int, ...] = ()


def sweep_options(concurrencies: str | None, batches: str | None) -> SweepOptions | None:
    """Read lists such as `1,2,4`; None where no sweep is asked for.

    Raises:
        InferenceError: no list of numbers from 1, or batch sizes without concurrencies.
    """
    if concurrencies is None:
        if batches is not None:
            raise InferenceError("batch sizes of a sweep, but no sweep", remedy="say how many at once: --sweep 1,2,4")
        return None
    sizes = () if batches is None else _counts(batches, "--sweep-batches")
    return SweepOptions(_counts(concurrencies, "--sweep"), sizes)


def _counts(text: str, what: str) -> tuple[int, ...]:
    try:
        counts = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        counts = ()
    if not counts or counts[0] < 1:
        raise InferenceError(f"{what}: {text!r} is not a list of numbers from 1", remedy="for example 1,2,4")
    return counts


def sweep_batches(options: SweepOptions, batch: BatchRange, label: str) -> tuple[int, ...]:
    """Return the batch sizes at which a plan is measured: those asked for that it takes, or doublings of its smallest.

    Raises:
        InferenceError: the plan takes none of those asked for.
    """
    if options.batches:
        taken = tuple(size for size in options.batches if batch.min <= size <= batch.max)
        if not taken:
            raise InferenceError(
                f"{label} takes batches of {batch.min} to {batch.max}, and none of these was asked for",
                remedy="leave out the batch sizes, or export with --dynamic-batch",
            )
        return taken
    return tuple(sorted({*doublings(batch.min, batch.max), batch.opt}))


def doublings(first: int, last: int) -> Sequence[int]:
    """Return `first`, twice that, and so on, up to `last`."""
    return [first * 2**power for power in range((last // first).bit_length())]
