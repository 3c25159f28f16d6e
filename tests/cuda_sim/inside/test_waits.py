"""Every wait of a schedule is needed: without any single one of them the logits come out wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.artifacts.schemas import Wait
from parnet_deploy.runtime.cuda.driver import Driver
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.program import compile_program
from tests.cuda_sim.inside.host_engine import devices, expected, infer, make_plan, reach


@pytest.mark.parametrize("peers", [True, False])
@pytest.mark.parametrize("partition", ["streams", "shared-stem", "terms-shared-stem"])
def test_every_wait_is_needed(
    sim: Any,
    driver: Driver,
    bundles: Path,
    counts: Counter[str],
    monkeypatch: pytest.MonkeyPatch,
    partition: str,
    peers: bool,
) -> None:
    """Without any single one of them the logits are wrong once some stream is slow."""
    reach(sim, peers)
    plan, engines = make_plan(bundles, partition, devices(3))
    program = compile_program(plan, driver.reaches)
    # The host has waited for the request before this one, so what starts the lanes orders nothing here.
    waits = [op for op in program.operations if isinstance(op, Wait) and op.event != "host start"]
    assert len(waits) >= 2
    for wait in waits:
        mutant = type(program)(tuple(op for op in program.operations if op is not wait), program.home)
        monkeypatch.setattr("parnet_deploy.runtime.cuda.pipeline.compile_program", lambda *_, made=mutant: made)
        pipeline = CudaPipeline(plan, engines, driver)
        try:
            assert any(goes_wrong(sim, pipeline, bundles, held_us) for held_us in (2_000, 10_000, 50_000)), wait
        finally:
            pipeline.stop()
        counts["mutations caught"] += 1
    reach(sim, True)


def goes_wrong(sim: Any, pipeline: CudaPipeline, bundles: Path, held_us: int) -> bool:
    """Tell whether holding up any one of the streams gives wrong logits."""
    sim.trace_start()
    infer(pipeline, 0, 1)
    streams = {stream for _, _, stream, _ in sim.trace_stop()}
    for seed, stream in enumerate(sorted(streams), start=1):
        sim.hold(stream, held_us)
        wrong = infer(pipeline, seed, 1).tobytes() != expected(bundles, seed, 1).tobytes()
        sim.hold(0, 0)
        if wrong:
            return True
    return False
