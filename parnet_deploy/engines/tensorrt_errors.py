"""What TensorRT says went wrong: it answers null or false, and tells why to a logger only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Any

from parnet_deploy.engines.base import StageSpec
from parnet_deploy.engines.tensorrt_flavour import TensorRT
from parnet_deploy.errors import EngineError


def tensorrt_failure(
    tensorrt: TensorRT,
    spec: StageSpec,
    action: str,
    messages: list[str],
    where: Path | None = None,
    remedy: str | None = None,
) -> EngineError:
    """Return the error for a stage that TensorRT cannot `action`, with the first of its `messages`."""
    # What comes first is the cause of what follows.
    reason = messages[0].strip() if messages else "it gave no reason"
    return EngineError(f"{tensorrt.title} cannot {action} stage {spec.name!r}: {reason}", where=where, remedy=remedy)


# Lists of error messages by the thread that is inside; written by `collected_errors`, filled by the logger.
_collecting: dict[int, list[str]] = {}


@contextmanager
def collected_errors(trt: Any) -> Iterator[list[str]]:
    """Collect what TensorRT logs as an error while this thread is inside."""
    logger(trt)
    messages: list[str] = []
    _collecting[get_ident()] = messages
    try:
        yield messages
    finally:
        del _collecting[get_ident()]


@cache
def logger(trt: Any) -> Any:
    """Return the one logger of the process: TensorRT keeps the first that it is given, for good."""

    class ErrorLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                # A thread of TensorRT's own tells everyone who listens.
                lists = [_collecting[get_ident()]] if get_ident() in _collecting else list(_collecting.values())
                for messages in lists:
                    messages.append(message)

    return ErrorLogger()
