"""Ranges of NVTX, NVIDIA's tools extension: they name requests and stages in Nsight Systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

from parnet_deploy.errors import MissingDependencyError

_DOMAIN = "parnet-deploy"


class Ranges(Protocol):
    """Where named ranges of the calling thread go."""

    def range(self, name: str) -> AbstractContextManager[None]:
        """Return the context of a range."""

    def around(self, name: str, call: Callable[[], None]) -> Callable[[], None]:
        """Return a call that is made inside a range."""


class _NoRanges:
    def range(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def around(self, name: str, call: Callable[[], None]) -> Callable[[], None]:  # noqa: ARG002
        return call


NO_RANGES: Ranges = _NoRanges()


def open_ranges(*, wanted: bool) -> Ranges:
    """Return ranges of the domain `parnet-deploy`, or `NO_RANGES` where they are not wanted or no tool records them.

    A tool is attached when the process starts or not at all, so ranges cost nothing without one.

    Raises:
        MissingDependencyError: they are wanted, and the package `nvtx` is not installed.
    """
    if not wanted:
        return NO_RANGES
    try:
        import nvtx
    except ImportError as error:
        raise MissingDependencyError(
            f"NVTX ranges need the package nvtx ({error})", remedy="pip install 'parnet-deploy[cuda]'"
        ) from error
    domain = nvtx.get_domain(_DOMAIN)
    # Without a tool, or where it leaves this domain out, the package returns another class's object.
    return _NvtxRanges(domain) if isinstance(domain, nvtx.Domain) else NO_RANGES


class _NvtxRanges:
    def __init__(self, domain: Any) -> None:
        self._domain = domain

    @contextmanager
    def range(self, name: str) -> Iterator[None]:
        """Return the context of a range."""
        self._domain.push_range(self._domain.get_event_attributes(message=name))
        try:
            yield
        finally:
            self._domain.pop_range()

    def around(self, name: str, call: Callable[[], None]) -> Callable[[], None]:
        """Return a call that is made inside a range."""
        domain, attributes = self._domain, self._domain.get_event_attributes(message=name)

        def ranged() -> None:
            domain.push_range(attributes)
            try:
                call()
            finally:
                domain.pop_range()

        return ranged
