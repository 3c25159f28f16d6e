"""A plan that is open and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.artifacts.folders import OpenPlan, open_plan
from parnet_deploy.artifacts.schemas import Plan
from parnet_deploy.errors import EngineError, InferenceError, ParNetError
from parnet_deploy.planning.schedule import HOST
from parnet_deploy.planning.timeline import Span
from parnet_deploy.runtime.base import Executor, Pipeline, close_all
from parnet_deploy.runtime.cpu import CpuExecutor

Images = NDArray[np.float32]

_DEFAULT_CUDA = CudaOptions()


def open_executor(plan: OpenPlan, cuda: CudaOptions) -> Executor:
    """Load a plan's engines on the devices that its stages are placed on.

    Raises:
        EngineError: stages on the processor and on GPUs in one plan, and as `Session.open`.
    """
    devices = {lane.device for lane in plan.manifest.placement.values()}
    if devices == {HOST}:
        return CpuExecutor(plan)
    if HOST in devices:
        raise EngineError(
            "the plan has stages on the processor and on GPUs",
            where=plan.folder / "plan.json",
            remedy="place all stages on GPUs, or all on the cpu",
        )
    # Only here: what it imports is not installed where there are no GPUs.
    from parnet_deploy.runtime.cuda.executor import CudaExecutor

    return CudaExecutor(plan, cuda)


class Session:
    """Engines of a plan, ready to run, with one or more pipelines over them.

    A request takes a pipeline and gives it back; while all are taken, further requests wait. So any number of threads
    may call a session, and its memory and threads stay what they were when it was opened.
    """

    def __init__(self, plan: OpenPlan, executor: Executor, pipelines: int) -> None:
        self._plan = plan
        self._executor = executor
        self._count = 0
        self._is_released = False
        self._closed_because: str | None = None
        # Held by whoever takes every pipeline, so that two of them cannot each wait for the other's.
        self._exclusive = Lock()
        # None stands for a pipeline that is no more.
        self._idle: SimpleQueue[Pipeline | None] = SimpleQueue()
        try:
            for _ in range(pipelines):
                self._idle.put(executor.create_pipeline())
                self._count += 1
        except BaseException:
            with suppress(ParNetError):
                self.close()
            raise

    @classmethod
    def open(cls, plan: str | Path, *, pipelines: int = 1, cuda: CudaOptions = _DEFAULT_CUDA) -> Session:
        """Open a plan's folder; `pipelines` requests can run at the same time, over the same engines.

        `cuda` is for plans on GPUs.

        Raises:
            ArtifactError: the folder holds no plan, or one that was changed or damaged.
            EngineError: the plan was built for another machine or backend version, or an engine does not load.
            MissingDependencyError: the backend's package is not installed.
            InferenceError: less than one pipeline.
        """
        if pipelines < 1:
            raise InferenceError(f"a session with {pipelines} pipelines cannot answer", remedy="pass at least 1")
        opened = open_plan(Path(plan))
        return cls(opened, open_executor(opened, cuda), pipelines)

    @property
    def plan(self) -> Plan:
        """The plan's manifest."""
        return self._plan.manifest

    @property
    def folder(self) -> Path:
        """The plan's folder."""
        return self._plan.folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the requests that run, refuse those that wait, and free everything. Closing twice is fine."""
        with self._exclusive:
            if self._is_released:
                return
            self._is_released = True
            self._closed_because = self._closed_because or "it was closed"
            pipelines = [self._idle.get() for _ in range(self._count)]
            self._idle.put(None)
            close_all([self._executor.close, *(pipeline.stop for pipeline in pipelines if pipeline is not None)])

    def infer(self, images: Images) -> Images:
        """Answer preprocessed images, float32 [N, C, H, W], with logits, float32 [N, classes], for any N from 1.

        More images than the plan's largest batch are run in several batches; fewer than its smallest are filled up with
        zeros, whose answers are dropped. Values are not looked at: NaN in gives NaN out, in that image's row.

        Raises:
            InferenceError: images of another type, shape or dtype, a stage that failed, or a session that is closed.
        """
        images = self._checked(images)
        logits = np.empty((images.shape[0], self.plan.network.num_classes), np.float32)

        def collect(pipeline: Pipeline, start: int, rows: int) -> None:
            logits[start : start + rows] = pipeline.view(self.plan.output, rows)

        self._run_batches(images, collect)
        return logits

    def infer_stages(self, images: Images) -> dict[str, NDArray[Any]]:
        """Answer with every tensor that a stage makes, by name; each [N, ...] in the dtype that crosses the boundary.

        Raises:
            InferenceError: as `infer`.
        """
        images = self._checked(images)
        names = [name for stage in self.plan.stages for name in stage.outputs]
        tensors: dict[str, NDArray[Any]] = {}
        for name in names:
            tensor = self.plan.tensors[name]
            tensors[name] = np.empty((images.shape[0], *tensor.shape), tensor.dtype)

        def collect(pipeline: Pipeline, start: int, rows: int) -> None:
            for name, array in tensors.items():
                array[start : start + rows] = pipeline.view(name, rows)

        self._run_batches(images, collect)
        return tensors

    def warm_up(self, runs: int = 3) -> None:
        """Run zeros through every pipeline `runs` times at the batch size that the plan is best at."""
        with self._exclusive:
            taken: list[Pipeline] = []
            try:
                taken.extend(self._take() for _ in range(self._count))
                for pipeline in taken:
                    pipeline.view(self.plan.input, self.plan.batch.opt)[...] = 0
                    for _ in range(runs):
                        pipeline.run(self.plan.batch.opt)
            finally:
                for pipeline in taken:
                    self._give_back(pipeline)

    def profile(self, images: Images, runs: int = 1) -> list[tuple[Span, ...]]:
        """Run the same images `runs` times; return for each when every stage and copy ran, in the order of their ends.

        Times are milliseconds since the start of the request.

        Raises:
            InferenceError: as `infer`, and for more images than one batch holds.
        """
        images = self._checked(images)
        if images.shape[0] > self.plan.batch.max:
            raise InferenceError(
                f"{images.shape[0]} images do not fit into one batch", remedy=f"pass at most {self.plan.batch.max}"
            )
        with self._pipeline() as pipeline:
            batch = self._fill(pipeline, images)
            return [pipeline.profile(batch) for _ in range(runs)]

    def _checked(self, images: Images) -> Images:
        if not isinstance(images, np.ndarray) or images.dtype != np.float32:
            found = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
            raise InferenceError(
                f"images are {found}, not a float32 array", remedy="convert: images.astype(np.float32)"
            )
        wanted = self.plan.tensors[self.plan.input].shape
        if images.ndim != 4 or images.shape[1:] != wanted or images.shape[0] == 0:
            remedy = "add the batch axis: images[None]" if images.shape == wanted else "preprocess for this plan"
            raise InferenceError(
                f"images have shape {list(images.shape)}, the plan takes {['N', *wanted]} with N from 1", remedy=remedy
            )
        return images

    def _run_batches(self, images: Images, collect: Callable[[Pipeline, int, int], None]) -> None:
        """Run batch after batch, giving the pipeline back between them so that a long request holds up no short one."""
        largest = self.plan.batch.max
        for start in range(0, images.shape[0], largest):
            batch = images[start : start + largest]
            # Not by `_pipeline`: a context manager takes a fifth of what a session adds to a small request.
            pipeline = self._take()
            try:
                pipeline.run(self._fill(pipeline, batch))
                collect(pipeline, start, batch.shape[0])
            finally:
                self._give_back(pipeline)

    def _fill(self, pipeline: Pipeline, images: Images) -> int:
        """Copy images into the input's memory and return the batch size to run."""
        rows = images.shape[0]
        batch: int = max(rows, self.plan.batch.min)
        memory = pipeline.view(self.plan.input, batch)
        memory[:rows] = images
        if rows < batch:
            memory[rows:] = 0
        return batch

    @contextmanager
    def _pipeline(self) -> Iterator[Pipeline]:
        pipeline = self._take()
        try:
            yield pipeline
        finally:
            self._give_back(pipeline)

    def _take(self) -> Pipeline:
        pipeline = self._idle.get()
        if pipeline is None or self._closed_because is not None:
            self._idle.put(pipeline)
            raise InferenceError(f"the session is closed: {self._closed_because}", remedy="open the plan again")
        return pipeline

    def _give_back(self, pipeline: Pipeline) -> None:
        """Return a pipeline, or a new one in the place of one that is stopped; without one the session is closed."""
        returned: Pipeline | None = pipeline
        if pipeline.is_stopped:
            try:
                returned = self._executor.create_pipeline()
            except ParNetError as error:
                returned = None
                self._closed_because = self._closed_because or error.what
        self._idle.put(returned)
