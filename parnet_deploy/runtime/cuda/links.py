"""Measure what copies take between GPUs and to and from the host, by CUDA events around them.

Copies between GPUs go as the executor makes them: directly where the source reaches the target, else through pinned
memory, down on a stream of the source and up on one of the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from statistics import median

from parnet_deploy.errors import EngineError, ParNetError
from parnet_deploy.planning.measured_links import CopyPath, LinkReport, MeasuredLink, fit_copy_times
from parnet_deploy.planning.schedule import HOST
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.objects import Buffer, Context, Event, PinnedBuffer, Stream, close_contexts

# Uploads of the largest size ahead of what is measured: while they run, the host enqueues all of it, so that its own
# time is not in the figures. They take half a millisecond and more over PCIe.
_AHEAD = 2


@dataclass(frozen=True)
class Sweep:
    """What is copied: each size `copies` times in a row, divided by as many; all sizes in turn, `repeats` times over.

    One more turn goes ahead and does not count. What disturbs some turns does not move the medians.
    """

    sizes_bytes: tuple[int, ...] = tuple(4**exponent << 10 for exponent in range(1, 8))  # 4 KiB to 16 MiB
    copies: int = 4
    repeats: int = 7


@dataclass(frozen=True)
class _Gpu:
    """A device with a stream, memory of the largest size on both sides, and events."""

    name: str
    context: Context
    stream: Stream
    buffer: Buffer
    pinned: PinnedBuffer
    start: Event
    end: Event
    handed: Event


@dataclass(frozen=True)
class _Way:
    """A way that copies go, the GPU whose stream they hold, and the call that enqueues one of so many bytes."""

    source: str
    target: str
    path: CopyPath
    holder: _Gpu
    enqueue: Callable[[int], None]


def measure_links(
    driver: Driver, *, sweep: Sweep | None = None, on_link: Callable[[MeasuredLink], None] = lambda _: None
) -> LinkReport:
    """Measure every ordered pair of GPUs, and each GPU's ways from and to the host, one after the other.

    Calls `on_link` after each of the n (n + 1) ways of n GPUs. Whatever happens, everything is freed.

    Raises:
        EngineError: no GPU, a call that failed, or times that do not grow with the size.
    """
    sweep = sweep or Sweep()
    names = tuple(driver.describe(ordinal).name for ordinal in range(driver.count_devices()))
    if not names:
        raise EngineError(
            "there is no GPU whose links could be measured", remedy="check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    contexts: list[Context] = []
    links: list[MeasuredLink] = []
    try:
        gpus = [_open(driver, ordinal, max(sweep.sizes_bytes), contexts) for ordinal in range(len(names))]
        for way in _find_ways(driver, gpus):
            links.append(_measure(way, sweep))
            on_link(links[-1])
    except BaseException:
        with suppress(ParNetError):
            close_contexts(contexts)
        raise
    close_contexts(contexts)
    return LinkReport(devices=names, links=tuple(links))


def _open(driver: Driver, ordinal: int, size_bytes: int, contexts: list[Context]) -> _Gpu:
    context = Context(driver, ordinal)
    contexts.append(context)
    with context:
        return _Gpu(
            name=f"cuda:{ordinal}",
            context=context,
            stream=Stream(context),
            buffer=Buffer(context, size_bytes),
            pinned=PinnedBuffer(context, size_bytes),
            start=Event(context, timing=True),
            end=Event(context, timing=True),
            handed=Event(context),
        )


def _find_ways(driver: Driver, gpus: Sequence[_Gpu]) -> Iterator[_Way]:
    for gpu in gpus:
        yield _Way(HOST, gpu.name, "host", gpu, partial(_upload, gpu))
        yield _Way(gpu.name, HOST, "host", gpu, partial(_download, gpu))
    for source, target in permutations(gpus, 2):
        if driver.reaches(source.context.device, target.context.device):
            with source.context:
                driver.enable_peer_access(target.context.handle)
            yield _Way(source.name, target.name, "peer", source, partial(_copy_to_peer, source, target))
        else:
            yield _Way(source.name, target.name, "staged", source, partial(_copy_through_host, source, target))


def _upload(gpu: _Gpu, size_bytes: int) -> None:
    with gpu.context:
        gpu.stream.upload(gpu.buffer, gpu.pinned, size_bytes)


def _download(gpu: _Gpu, size_bytes: int) -> None:
    with gpu.context:
        gpu.stream.download(gpu.pinned, gpu.buffer, size_bytes)


def _copy_to_peer(source: _Gpu, target: _Gpu, size_bytes: int) -> None:
    with source.context:
        source.stream.copy_to_peer(target.buffer, source.buffer, size_bytes)


def _copy_through_host(source: _Gpu, target: _Gpu, size_bytes: int) -> None:
    """Enqueue what the executor's program makes of such a copy.

    Contexts are entered in turn, never one inside another: when that fails, pycuda loses track of what is current.
    """
    with source.context:
        source.stream.download(source.pinned, source.buffer, size_bytes)
        source.stream.record(source.handed)
    with target.context:
        target.stream.wait(source.handed)
        target.stream.upload(target.buffer, source.pinned, size_bytes)
        target.stream.record(target.handed)
    with source.context:
        source.stream.wait(target.handed)


def _measure(way: _Way, sweep: Sweep) -> MeasuredLink:
    turns = [
        {size: _time_copy_us(way, size, sweep.copies) for size in sweep.sizes_bytes} for _ in range(1 + sweep.repeats)
    ]
    times_us = {size: median(turn[size] for turn in turns[1:]) for size in sweep.sizes_bytes}
    try:
        latency_us, bandwidth_gb_s = fit_copy_times(times_us)
    except ValueError as error:
        raise EngineError(
            f"the link from {way.source} to {way.target} cannot be measured: {error}",
            remedy="measure again while nothing else uses the GPUs",
        ) from error
    return MeasuredLink(
        source=way.source, target=way.target, path=way.path, latency_us=latency_us, bandwidth_gb_s=bandwidth_gb_s
    )


def _time_copy_us(way: _Way, size_bytes: int, copies: int) -> float:
    gpu = way.holder
    for _ in range(_AHEAD):
        _upload(gpu, gpu.buffer.size_bytes)
    with gpu.context:
        gpu.stream.record(gpu.start)
    for _ in range(copies):
        way.enqueue(size_bytes)
    with gpu.context:
        gpu.stream.record(gpu.end)
        gpu.end.synchronize()
        return 1e3 * gpu.end.ms_since(gpu.start) / copies
