"""Simulate a schedule with known stage times, and draw what ran when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import Command, Copy, Lane, Launch, Record, Wait

_MIN_WIDTH = 20


@dataclass(frozen=True)
class Span:
    """A stage, or the copy of a tensor, on its lane; times are since the start of the request."""

    lane: Lane
    stage: str
    start_ms: float
    end_ms: float
    is_copy: bool = False


def _no_cost(_: Copy) -> float:
    return 0.0


def simulate(
    commands: Sequence[Command],
    durations_ms: Mapping[str, float],
    copy_ms: Callable[[Copy], float] = _no_cost,
) -> tuple[Span, ...]:
    """Return when each stage and copy would run if nothing but the schedule held it up.

    Lanes are taken to be independent: cores, memory and links that lanes share are not modelled, so the durations have
    to be those of stages running together. Copies that take no time are left out.

    Raises:
        ValueError: a `Wait` before its `Record`, or a stage without a duration.
    """
    free_ms: dict[Lane, float] = {}
    recorded_ms: dict[str, float] = {}
    spans: list[Span] = []
    for command in commands:
        now_ms = free_ms.get(command.lane, 0.0)
        match command:
            case Launch():
                if command.stage not in durations_ms:
                    raise ValueError(f"no duration for stage {command.stage!r}")
                spans.append(Span(command.lane, command.stage, now_ms, now_ms + durations_ms[command.stage]))
                now_ms = spans[-1].end_ms
            case Copy() if (duration_ms := copy_ms(command)) > 0:
                name = f"{command.tensor} to {command.target}"
                spans.append(Span(command.lane, name, now_ms, now_ms + duration_ms, is_copy=True))
                now_ms = spans[-1].end_ms
            case Record():
                recorded_ms[command.event] = now_ms
            case Wait():
                if command.event not in recorded_ms:
                    raise ValueError(f"event {command.event!r} is waited for before it is recorded")
                now_ms = max(now_ms, recorded_ms[command.event])
        free_ms[command.lane] = now_ms
    return tuple(spans)


def _bar(span: Span, cells: int) -> str:
    """Fill `cells` with the span's name in brackets, or with as much of it as fits."""
    if cells < 3:
        return "=" * cells if span.is_copy else "#" * cells
    name = span.stage[: cells - 2]
    return f"[{name.center(cells - 2, '=' if span.is_copy else '#')}]"


def draw_timeline(spans: Sequence[Span], width: int = 80) -> str:
    """Draw one row per lane, stages as `[##name##]`, copies as `[==name==]`, idle time as dots, at most `width` wide.

    Every span is at least one cell; a name that does not fit is cut. Returns an empty string for no spans.
    """
    if not spans:
        return ""
    lanes = sorted({span.lane for span in spans}, key=lambda lane: (lane.device, lane.stream))
    margin = max(len(str(lane)) for lane in lanes) + 1
    columns = max(width, _MIN_WIDTH + margin) - margin
    total_ms = max(span.end_ms for span in spans) or 1.0
    scale = f"{total_ms:.2f} ms"
    rows = [" " * margin + "0".ljust(columns - len(scale)) + scale]
    for lane in lanes:
        row = ""
        for span in sorted((span for span in spans if span.lane == lane), key=lambda span: span.start_ms):
            start = min(max(len(row), round(span.start_ms / total_ms * columns)), columns - 1)
            cells = max(1, round(span.end_ms / total_ms * columns) - start)
            row = row.ljust(start, ".") + _bar(span, cells)
        rows.append(str(lane).ljust(margin) + row[:columns].ljust(columns, "."))
    return "\n".join(rows)
