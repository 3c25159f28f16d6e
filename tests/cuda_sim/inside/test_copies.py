"""Copies between devices that reach each other's memory, and between those that do not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.schemas import Copy, Record, Wait
from parnet_deploy.planning.schedule import check_schedule
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.program import Download, PeerCopy, Upload, compile_program
from tests.cuda_sim.inside.host_engine import devices, expected, infer, make_plan, reach


def test_without_peer_access_copies_go_through_pinned_memory(sim: Any, driver: Driver, bundles: Path) -> None:
    """Device 0 reaches 1 and not 2."""
    plan, engines = make_plan(bundles, "streams", devices(3))
    sim.set_peer(0, 2, reach=False)
    copies = [command for command in plan.schedule if isinstance(command, Copy)]
    crossing = [copy for copy in copies if "cpu" not in (copy.source, copy.target)]
    staged = [copy for copy in crossing if {copy.source, copy.target} == {"cuda:0", "cuda:2"}]
    assert staged
    assert len(crossing) > len(staged)
    program = compile_program(plan, driver.reaches)
    assert len([op for op in program.operations if isinstance(op, PeerCopy)]) == len(crossing) - len(staged)
    pipeline = CudaPipeline(plan, engines, driver)
    infer(pipeline, 3, 1)
    sim.trace_start()
    assert infer(pipeline, 4, 1).tobytes() == expected(bundles, 4, 1).tobytes()
    found = Counter(name for name, *_ in sim.trace_stop())
    pipeline.stop()
    uploads = sum(copy.source == "cpu" for copy in copies) + len(staged)
    assert (found["peer"], found["h2d"], found["d2h"]) == (len(crossing) - len(staged), uploads, 1 + len(staged))
    assert found["peer-through-host"] == 0
    sim.set_peer(0, 2, reach=True)


def test_a_copy_that_the_target_pulls_comes_down_on_a_stream_of_the_source(
    sim: Any, driver: Driver, bundles: Path
) -> None:
    """A schedule made by hand: check_schedule allows either side to copy."""
    reach(sim, False)
    plan, engines = make_plan(bundles, "streams", devices(2))
    made = next(stage.name for stage in plan.stages if plan.placement[stage.name].device == "cuda:1")
    home = plan.placement["join"]
    pulled = [
        command.model_copy(update={"lane": home})
        if isinstance(command, Copy) and command.source == "cuda:1"
        else command
        for command in plan.schedule
        if not (isinstance(command, Record | Wait) and "@" in command.event)
    ]
    tensors = [c.tensor for c in plan.schedule if isinstance(c, Copy) and c.source == "cuda:1"]
    commands = [c for c in pulled if not (isinstance(c, Copy) and c.tensor in tensors)]
    join = next(index for index, c in enumerate(commands) if c.op == "launch" and c.stage == "join")
    lane = plan.placement[made]
    pull = [Record(lane=lane, event="made"), Wait(lane=home, event="made")]
    pull += [Copy(lane=home, tensor=tensor, source="cuda:1", target="cuda:0") for tensor in tensors]
    commands[join:join] = pull
    check_schedule(commands, plan.stages, plan.placement)
    plan = plan.model_copy(update={"schedule": tuple(commands)})
    operations = compile_program(plan, driver.reaches).operations
    assert {op.lane.device for op in operations if isinstance(op, Download) and op.tensor in tensors} == {"cuda:1"}
    assert {op.lane for op in operations if isinstance(op, Upload) and op.tensor in tensors} == {home}
    pipeline = CudaPipeline(plan, engines, driver)
    for seed in range(20):
        assert not is_wrong(sim, pipeline, bundles, seed)
    pipeline.stop()
    reach(sim, True)


def is_wrong(sim: Any, pipeline: CudaPipeline, bundles: Path, seed: int) -> bool:
    sim.delays(seed, 400)
    return infer(pipeline, seed, 1).tobytes() != expected(bundles, seed, 1).tobytes()
