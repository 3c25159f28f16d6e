"""What tests on the driver in host memory share: its controls, and counts of what was tried."""

from __future__ import annotations

import ctypes
import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from parnet_deploy.runtime.cuda.driver import Driver, open_driver

LIVE = ("contexts", "streams", "events", "device buffers", "pinned buffers", "pushed contexts", "graphs")


class Executed(NamedTuple):
    """An operation that a stream has executed; `stream` is its number, times are virtual microseconds."""

    name: str
    device: int
    stream: int
    size: int
    begin_us: float
    end_us: float


class Simulation:
    """The controls that `libcuda.so.1` exports besides the driver's own functions."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        for name, result, *arguments in (
            ("delays", None, ctypes.c_uint64, ctypes.c_uint),
            ("hold", None, ctypes.c_int, ctypes.c_uint),
            ("fail_at", None, ctypes.c_long, ctypes.c_int),
            ("failed_call", ctypes.c_char_p),
            ("live", ctypes.c_long, ctypes.c_int),
            ("calls", ctypes.c_long),
            ("steps", ctypes.c_long),
            ("faults", ctypes.c_long, ctypes.c_char_p, ctypes.c_size_t),
            ("trace_start", None),
            ("trace_stop", ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t),
            ("lose", None, ctypes.c_int),
            ("set_peer", None, ctypes.c_int, ctypes.c_int, ctypes.c_int),
            ("set_free_bytes", None, ctypes.c_uint64),
            ("clock", None, ctypes.c_int),
            ("link", None, ctypes.c_int, ctypes.c_int, ctypes.c_double, ctypes.c_double),
            ("next_host", None, ctypes.c_double),
            ("stream_number", ctypes.c_int, ctypes.c_void_p),
        ):
            function = getattr(self._library, f"cudasim_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(self, f"_{name}", function)

    def delays(self, seed: int, longest_us: int) -> None:
        """Draw delays anew; 0 for none."""
        self._delays(seed, longest_us)

    def hold(self, stream: int, held_us: int) -> None:
        """Hold every operation of one stream, by its number in the trace, back by as much; 0 for none."""
        self._hold(stream, held_us)

    def fail_at(self, call: int, error: int = 2) -> None:
        """Make the `call`-th driver call from now fail; 0 for none."""
        self._fail_at(call, error)

    def failed_call(self) -> str:
        """The call that was made to fail, or an empty string."""
        name: bytes = self._failed_call()
        return name.decode()

    def live(self) -> dict[str, int]:
        """What is alive, by kind; kinds of which there is nothing are left out."""
        return {name: count for index, name in enumerate(LIVE) if (count := self._live(index))}

    def calls(self) -> int:
        """How many driver calls were made."""
        return int(self._calls())

    def steps(self) -> int:
        """How many operations were executed on streams."""
        return int(self._steps())

    def faults(self) -> str:
        """The latest misuse of memory or objects since the last question, or an empty string."""
        text = ctypes.create_string_buffer(256)
        self._faults(text, 256)
        return text.value.decode()

    def trace_start(self) -> None:
        """Forget the trace and begin a new one."""
        self._trace_start()

    def trace_stop(self) -> list[tuple[str, int, int, int]]:
        """Every operation executed since: name, device, stream, bytes."""
        return [(row.name, row.device, row.stream, row.size) for row in self.timed_trace_stop()]

    def timed_trace_stop(self) -> list[Executed]:
        """The same, with virtual times."""
        text = ctypes.create_string_buffer(1 << 20)
        assert self._trace_stop(text, 1 << 20) < 1 << 20
        rows = (line.split() for line in text.value.decode().splitlines())
        return [Executed(name, *map(int, numbers[:3]), *map(float, numbers[3:])) for name, *numbers in rows]

    def lose(self, device: int) -> None:
        """Let a device answer as after an illegal access, until all have given its context back."""
        self._lose(device)

    def set_peer(self, first: int, second: int, *, reach: bool) -> None:
        """Let two devices reach each other's memory, or not."""
        self._set_peer(first, second, reach)

    def set_free_bytes(self, size_bytes: int) -> None:
        """Leave each device so much to allocate."""
        self._set_free_bytes(size_bytes)

    def clock(self, *, on: bool) -> None:
        """Let events tell virtual time or real time; copies take no virtual time until their link is set."""
        self._clock(on)

    def link(self, source: str, target: str, latency_us: float, bandwidth_gb_s: float) -> None:
        """Say what copies take that are enqueued from now on, one way; devices are named as in a lane."""
        ends = (-1 if device == "cpu" else int(device.removeprefix("cuda:")) for device in (source, target))
        self._link(*ends, latency_us, bandwidth_gb_s)

    def next_host(self, duration_us: float) -> None:
        """Say what the next host function takes that this thread enqueues or captures."""
        self._next_host(duration_us)

    def stream_number(self, handle: int) -> int:
        """The number of a stream in the trace."""
        return int(self._stream_number(handle))


# What was tried, by adapter ("" where it needs none), for the summary of the run outside.
_tried: defaultdict[str, Counter[str]] = defaultdict(Counter)


def pytest_sessionfinish() -> None:
    """Hand the counts on."""
    Path(os.environ["CUDASIM_REPORT"]).write_text(json.dumps(_tried))


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Counter[str]:
    """What was tried on the test's adapter."""
    callspec = getattr(request.node, "callspec", None)
    return _tried[callspec.params.get("any_driver", "") if callspec else ""]


@pytest.fixture(scope="session")
def simulation() -> Simulation:
    return Simulation()


@pytest.fixture
def sim(simulation: Simulation, counts: Counter[str]) -> Iterator[Simulation]:
    """The controls, with no delays and real time at first; afterwards nothing may be alive or misused."""
    simulation.delays(0, 0)
    simulation.hold(0, 0)
    simulation.fail_at(0)
    simulation.clock(on=False)
    before = simulation.calls(), simulation.steps()
    yield simulation
    simulation.fail_at(0)
    assert simulation.live() == {}
    assert simulation.faults() == ""
    counts["driver calls"] += simulation.calls() - before[0]
    counts["operations executed"] += simulation.steps() - before[1]


@pytest.fixture(scope="session", params=os.environ["CUDASIM_ADAPTERS"].split(","))
def any_driver(request: pytest.FixtureRequest) -> Driver:
    name: str = request.param
    return open_driver(name)


@pytest.fixture
def driver(any_driver: Driver, sim: Simulation, counts: Counter[str]) -> Driver:  # noqa: ARG001
    """Each adapter, opened once: the driver cannot be closed."""
    counts["tests on an adapter"] += 1
    return any_driver


@pytest.fixture(scope="session")
def bundles() -> Path:
    """A folder with the bundles of a small network, one per partition, named after it."""
    return Path(os.environ["CUDASIM_BUNDLES"])
