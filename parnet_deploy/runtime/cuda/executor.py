"""The engines of a plan on GPUs: contexts that live as long as the session, and pipelines over them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import cast

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.folders import OpenPlan
from parnet_deploy.engines.base import DeviceEngine
from parnet_deploy.engines.gpus import DEVICE_SETUP, device_ordinal
from parnet_deploy.engines.load import load_engines, open_backend
from parnet_deploy.errors import ParNetError
from parnet_deploy.runtime.base import close_all
from parnet_deploy.runtime.cuda.driver import open_driver
from parnet_deploy.runtime.cuda.objects import Context
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline
from parnet_deploy.runtime.cuda.ranges import open_ranges


class CudaExecutor:
    """A plan whose stages are all on GPUs."""

    def __init__(self, plan: OpenPlan, options: CudaOptions) -> None:
        """Open the driver and the plan's devices, and load each engine with its device current.

        Raises:
            ArtifactError: an unsound schedule.
            EngineError: no driver, a device that is not there or is not the plan's, or an engine that does not load.
            MissingDependencyError: no package that reaches the driver, or not the backend's.
        """
        self._plan = plan.manifest
        self._options = options
        backend = open_backend(plan)
        self._ranges = open_ranges(wanted=options.nvtx)
        self._driver = open_driver(options.adapter)
        self._contexts: dict[str, Context] = {}
        self._engines: dict[str, DeviceEngine] = {}
        try:
            for device in dict.fromkeys(lane.device for lane in self._plan.placement.values()):
                self._contexts[device] = Context(self._driver, device_ordinal(device))
            with DEVICE_SETUP:
                loaded = load_engines(plan, backend, lambda lane: self._contexts[lane.device])
            # What a backend loads for lanes of GPUs are engines of GPUs.
            self._engines = cast(dict[str, DeviceEngine], loaded)
        except BaseException:
            with suppress(ParNetError):
                self.close()
            raise

    def create_pipeline(self) -> CudaPipeline:
        """Return a pipeline with memory and streams of its own."""
        return CudaPipeline(self._plan, self._engines, self._driver, graphs=self._options.graphs, ranges=self._ranges)

    def close(self) -> None:
        """Give up the engines, then the devices."""
        closers: list[Callable[[], None]] = [context.close for context in self._contexts.values()]
        for name, engine in self._engines.items():
            closers.append(partial(self._contexts[self._plan.placement[name].device].call, engine.close))
        self._engines, self._contexts = {}, {}
        with DEVICE_SETUP:
            close_all(closers)
