"""Execute a plan's schedule on the processor: a thread per lane, and the caller's own thread for one of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from time import perf_counter
from typing import NamedTuple, cast

import numpy as np

from parnet_deploy.artifacts.folders import OpenPlan
from parnet_deploy.artifacts.schemas import Copy, Lane, Launch, Plan, Record, Wait
from parnet_deploy.engines.base import Array, BoundEngine, Engine
from parnet_deploy.engines.cpu import keep_on_cores
from parnet_deploy.engines.load import load_engines, open_backend
from parnet_deploy.errors import BUILD_AGAIN, EngineError, InferenceError, ParNetError
from parnet_deploy.planning.schedule import HOST, add_host_sync
from parnet_deploy.planning.timeline import Span
from parnet_deploy.runtime.base import BOUND_BATCH_SIZES

# An event as one lane sees it: empty until it is signalled, and emptied by the lane's wait.
Signal = SimpleQueue[None]


class _Step(NamedTuple):
    """One command, ready to execute: a stage to launch, a signal to wait for, or signals to give."""

    launch: BoundEngine | None
    stage: str
    wait: Signal | None
    signals: tuple[Signal, ...]


# What each lane executes for one request, the home lane first; a worker's own begins behind the wait that starts it.
_Programs = tuple[tuple[_Step, ...], ...]


class CpuPipeline:
    """Memory for every tensor of a plan, bound engines over it, and a thread for every lane but one.

    Serves one request at a time. A tensor that one stage writes and another reads is the same memory, so nothing is
    copied between stages. After every request all signals are used up, also after one that failed, because the lanes
    then go on through their commands and leave out only the launches.
    """

    def __init__(self, plan: Plan, engines: Mapping[str, Engine]) -> None:
        self._plan = plan
        self._engines = engines
        self._home = plan.placement[next(stage.name for stage in plan.stages if plan.output in stage.outputs)]
        self._signals: list[Signal] = []
        self._lanes = self._compile()
        self._buffers: dict[str, Array] = {
            name: np.zeros((plan.batch.max, *tensor.shape), tensor.dtype) for name, tensor in plan.tensors.items()
        }
        self._bound: OrderedDict[int, _Programs] = OrderedDict()
        self._programs: _Programs = ()
        self._failures: list[tuple[str, BaseException]] = []
        self._trace: list[tuple[str, float, float]] | None = None
        self._stopped = False
        self._workers = [
            Thread(target=self._serve, args=(index, steps[0].wait, lane), name=f"parnet {lane}", daemon=True)
            for index, (lane, steps) in enumerate(self._lanes.items())
            if lane != self._home
        ]
        for worker in self._workers:
            worker.start()

    @property
    def is_stopped(self) -> bool:
        """Whether the pipeline can serve no more requests."""
        return self._stopped

    def view(self, tensor: str, rows: int) -> Array:
        """Return the first `rows` samples of a tensor's memory, which the next request overwrites."""
        return self._buffers[tensor][:rows]

    def run(self, batch: int) -> None:
        """Run the plan on the first `batch` samples of the input's memory.

        Raises:
            InferenceError: a stage failed; the pipeline stays usable, unless the stage ended its lane's thread.
        """
        self._trace = None
        self._run(batch)

    def profile(self, batch: int) -> tuple[Span, ...]:
        """Run as `run` does and return when each stage ran."""
        trace: list[tuple[str, float, float]] = []
        self._trace = trace
        begin = perf_counter()
        self._run(batch)
        return tuple(
            Span(self._plan.placement[stage], stage, (start - begin) * 1e3, (end - begin) * 1e3)
            for stage, start, end in trace
        )

    def _run(self, batch: int) -> None:
        self._programs = self._programs_for(batch)
        self._failures.clear()
        try:
            self._execute(self._programs[0])
        except BaseException:
            # An interrupt can strike between any two commands, so nobody knows which signals are used up.
            self.stop(wait=False)
            raise
        if self._failures:
            stage, error = self._failures[0]
            reason = error.what if isinstance(error, ParNetError) else f"{type(error).__name__}: {error}"
            remedy = error.remedy if isinstance(error, ParNetError) else None
            raise InferenceError(f"stage {stage!r} failed: {reason}", remedy=remedy) from error

    def stop(self, *, wait: bool = True) -> None:
        """End the worker threads, each after the stage that it is in; `wait` until they have ended."""
        self._stopped = True
        for signal in self._signals:
            # Who waits for it wakes up and sees that the pipeline has stopped.
            signal.put(None)
        if wait:
            for worker in self._workers:
                worker.join()
            self._bound.clear()
            self._programs = ()

    def _compile(self) -> dict[Lane, list[_Step]]:
        """Turn commands into steps with their signals, the home lane first; launches are filled in for a batch size."""
        commands = add_host_sync(self._plan.schedule, self._home)
        for command in commands:
            if command.lane.device != HOST or isinstance(command, Copy):
                raise EngineError(
                    f"this executor runs on the cpu only, and the plan has a {command.op} elsewhere", remedy=BUILD_AGAIN
                )
        # A signal for each wait: an event that several lanes wait for is given to each of them.
        signals: dict[int, Signal] = {}
        waits: dict[str, list[Signal]] = {}
        for index, command in enumerate(commands):
            if isinstance(command, Wait):
                signals[index] = SimpleQueue()
                waits.setdefault(command.event, []).append(signals[index])
        self._signals = list(signals.values())
        lanes: dict[Lane, list[_Step]] = {self._home: []}
        for index, command in enumerate(commands):
            steps = lanes.setdefault(command.lane, [])
            match command:
                case Launch():
                    steps.append(_Step(None, command.stage, None, ()))
                case Record():
                    steps.append(_Step(None, "", None, tuple(waits.get(command.event, ()))))
                case Wait():
                    steps.append(_Step(None, "", signals[index], ()))
        return lanes

    def _programs_for(self, batch: int) -> _Programs:
        programs = self._bound.get(batch)
        if programs is None:
            if len(self._bound) == BOUND_BATCH_SIZES:
                self._bound.popitem(last=False)
            home, *others = (self._bind(steps, batch) for steps in self._lanes.values())
            programs = self._bound[batch] = (home, *(steps[1:] for steps in others))
        else:
            self._bound.move_to_end(batch)
        return programs

    def _bind(self, steps: Sequence[_Step], batch: int) -> tuple[_Step, ...]:
        stages = {stage.name: stage for stage in self._plan.stages}
        bound = []
        for step in steps:
            if step.stage:
                stage = stages[step.stage]
                inputs = {name: self.view(name, batch) for name in stage.inputs}
                outputs = {name: self.view(name, batch) for name in stage.outputs}
                step = step._replace(launch=self._engines[stage.name].bind(inputs, outputs))
            bound.append(step)
        return tuple(bound)

    def _serve(self, index: int, start: Signal, lane: Lane) -> None:
        """Serve a lane, request after request; that it begins by waiting for `start` is `add_host_sync`'s doing."""
        engines = [record for record in self._plan.engines if self._plan.placement[record.stage] == lane]
        keep_on_cores({core for record in engines for core in record.cores})
        while True:
            start.get()
            try:
                if self._stopped or not self._execute(self._programs[index]):
                    return
            except BaseException:
                # The lane is no more, so the other lanes must not wait for it.
                self.stop(wait=False)
                return

    def _execute(self, steps: Sequence[_Step]) -> bool:
        """Execute a lane's commands for one request; return False if the pipeline was stopped meanwhile."""
        for launch, stage, wait, signals in steps:
            if launch is not None:
                if not self._failures:
                    self._launch(launch, stage)
            elif wait is not None:
                wait.get()
                if self._stopped:
                    return False
            else:
                for signal in signals:
                    signal.put(None)
        return True

    def _launch(self, launch: BoundEngine, stage: str) -> None:
        start = perf_counter()
        try:
            launch.run()
        except BaseException as error:
            self._failures.append((stage, error))
            if not isinstance(error, Exception):  # what ends a thread, and is the caller's own on the caller's lane
                raise
        if self._trace is not None:
            self._trace.append((stage, start, perf_counter()))


class CpuExecutor:
    """The engines of a plan whose stages are all on the processor."""

    def __init__(self, plan: OpenPlan) -> None:
        self._plan = plan.manifest
        # What a backend loads for the processor's lanes are engines of the processor.
        self._engines = cast(dict[str, Engine], load_engines(plan, open_backend(plan)))

    def create_pipeline(self) -> CpuPipeline:
        """Return a pipeline with memory and threads of its own."""
        return CpuPipeline(self._plan, self._engines)

    def close(self) -> None:
        """Give up the engines; their memory and threads go with the last reference to them."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
