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


class NvtxRanges:
    """Ranges of the domain `parnet-deploy`; they cost next to nothing while no tool is attached."""

    def __init__(self) -> None:
        """Raise `MissingDependencyError` if the package `nvtx` is not installed."""
        try:
            import nvtx
        except ImportError as error:
            raise MissingDependencyError(
                f"NVTX ranges need the package nvtx ({error})", remedy="pip install 'parnet-deploy[cuda]'"
            ) from error
        self._domain: Any = nvtx.get_domain(_DOMAIN)

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
