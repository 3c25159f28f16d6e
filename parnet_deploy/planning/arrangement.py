"""Arrange the stages of a built plan anew: lanes, threads and cores are in the manifest, not in the engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from parnet_deploy.artifacts.schemas import Lane, Plan
from parnet_deploy.planning.placement import device_lanes, place, split_cores
from parnet_deploy.planning.schedule import schedule

# `side by side`: a lane for every branch, so that branches run at the same time. `in turn`: one lane for all stages.
Order = Literal["side by side", "in turn"]
# `shared`: what runs at the same time shares the cores. `all`: every stage has as many threads as there are cores.
Threads = Literal["shared", "all"]


@dataclass(frozen=True)
class Arrangement:
    """How a plan's stages are run: on how many cores, in which order, and whether their threads are kept on cores."""

    cores: int
    order: Order = "in turn"
    threads: Threads = "shared"
    is_pinned: bool = False

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise ValueError("stages need at least one core")
        if self.is_pinned and self.threads == "all" and self.order == "side by side":
            raise ValueError("stages that all want every core cannot be kept on cores of their own")

    def __str__(self) -> str:
        count = f"{self.cores} thread{'s' if self.cores > 1 else ''}"
        each = " each" if self.threads == "all" else ""
        return f"{self.order}, {count}{each}{', pinned' if self.is_pinned else ''}"


def arrange(plan: Plan, arrangement: Arrangement, cores: Sequence[int]) -> Plan:
    """Return the manifest of the same engines in another arrangement; `cores` are the logical ones to choose from.

    Of a plan for GPUs only the order changes.

    Raises:
        ValueError: fewer cores than the arrangement needs.
    """
    if len(cores) < arrangement.cores:
        raise ValueError(f"{len(cores)} cores where {arrangement.cores} are asked for")
    cores = cores[: arrangement.cores]
    placement = _place(plan, arrangement.order)
    commands = schedule(plan.stages, placement, plan.input, plan.output)
    shares = split_cores(plan.stages, placement, cores)
    if arrangement.threads == "all":
        shares = {stage.name: tuple(cores) for stage in plan.stages}
    on_cpu = all(lane.device == "cpu" for lane in placement.values())
    engines = tuple(
        record.model_copy(
            update={
                "threads": len(shares[record.stage]),
                "cores": shares[record.stage] if arrangement.is_pinned else (),
            }
        )
        if on_cpu
        else record
        for record in plan.engines
    )
    return plan.model_copy(update={"placement": placement, "schedule": commands, "engines": engines})


def _place(plan: Plan, order: Order) -> dict[str, Lane]:
    device = plan.placement[plan.stages[0].name].device
    count = len(plan.stages) if order == "side by side" else 1
    return place(plan.stages, device_lanes(device, count))
