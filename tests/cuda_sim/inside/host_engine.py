"""Plans of the small network, and ONNX Runtime, called by the streams as a host function, as their engine."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from cuda.bindings import driver as cuda

from parnet_deploy.artifacts.folders import open_bundle
from parnet_deploy.artifacts.schemas import (
    DeviceRecord,
    EngineRecord,
    FileRecord,
    Graph,
    Lane,
    Plan,
    Stage,
    TensorSpec,
)
from parnet_deploy.errors import EngineError
from parnet_deploy.planning.placement import place
from parnet_deploy.planning.schedule import schedule
from parnet_deploy.runtime.cuda.pipeline import CudaPipeline

PARTITIONS = ("whole", "streams", "shared-stem", "terms", "terms-shared-stem")


class HostEngine:
    """An ONNX Runtime session that a stream calls on the addresses it is bound to."""

    def __init__(self, path: Path, stage: Stage, tensors: Mapping[str, TensorSpec]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Every node alike in the whole network and in its parts: fused across a cut, the last bit may differ.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.stage, self.tensors = stage, tensors
        self.bound = 0
        self.failures: list[Exception] = []

    def bind_device(self, addresses: Mapping[str, int], batch: int, stream: int) -> HostBoundEngine:
        assert sorted(addresses) == sorted((*self.stage.inputs, *self.stage.outputs))
        self.bound += 1
        return HostBoundEngine(self, addresses, batch, stream)

    def close(self) -> None:
        assert self.bound == 0


class HostBoundEngine:
    def __init__(self, engine: HostEngine, addresses: Mapping[str, int], batch: int, stream: int) -> None:
        self.engine, self.batch, self.stream = engine, batch, stream
        self.binding = engine.session.io_binding()
        for name, address in addresses.items():
            spec = engine.tensors[name]
            bind = self.binding.bind_input if name in engine.stage.inputs else self.binding.bind_output
            bind(name, "cpu", 0, np.dtype(spec.dtype), (batch, *spec.shape), address)
        self.callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.call)
        self.address = ctypes.cast(self.callback, ctypes.c_void_p).value

    def call(self, _: Any) -> None:
        try:
            self.engine.session.run_with_iobinding(self.binding)
        except Exception as error:
            self.engine.failures.append(error)

    def enqueue(self) -> None:
        (status,) = cuda.cuLaunchHostFunc(self.stream, cuda.CUhostFn(self.address), 0)
        if status != cuda.CUresult.CUDA_SUCCESS:
            raise EngineError(f"stage {self.engine.stage.name!r} cannot be enqueued: cuLaunchHostFunc: {status.name}")

    def close(self) -> None:
        self.engine.bound -= 1


@cache
def load(bundles: Path, partition: str) -> tuple[Any, dict[str, HostEngine]]:
    opened = open_bundle(bundles / partition)
    manifest = opened.manifest
    engines = {
        stage.name: HostEngine(opened.folder / stage.file.name, stage, manifest.tensors) for stage in manifest.stages
    }
    return manifest, engines


def make_plan(bundles: Path, partition: str, lanes: tuple[Lane, ...]) -> tuple[Plan, dict[str, HostEngine]]:
    manifest, engines = load(bundles, partition)
    stages = tuple(Stage(name=stage.name, inputs=stage.inputs, outputs=stage.outputs) for stage in manifest.stages)
    placement = place(stages, lanes)
    empty = FileRecord(name="engine", sha256="0" * 64, size_bytes=0)
    plan = Plan(
        **{name: getattr(manifest, name) for name in Graph.model_fields},
        backend="host",
        backend_version="1",
        devices=tuple(DeviceRecord(device=d, name="", capability="") for d in {lane.device for lane in lanes}),
        stages=stages,
        engines=tuple(EngineRecord(stage=stage.name, file=empty) for stage in stages),
        placement=placement,
        schedule=schedule(stages, placement),
    )
    return plan, engines


def devices(count: int, streams: int = 1) -> tuple[Lane, ...]:
    return tuple(Lane(device=f"cuda:{device}", stream=stream) for stream in range(streams) for device in range(count))


def images(seed: int, batch: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 3, 32, 32)).astype(np.float32)


def expected(bundles: Path, seed: int, batch: int) -> np.ndarray:
    """What one session over the whole network answers."""
    engine = load(bundles, "whole")[1]["whole"]
    logits: np.ndarray = engine.session.run(["logits"], {"image": images(seed, batch)})[0]
    return logits


def infer(pipeline: CudaPipeline, seed: int, batch: int) -> np.ndarray:
    pipeline.view("image", batch)[...] = images(seed, batch)
    pipeline.run(batch)
    return pipeline.view("logits", batch).copy()


def reach(sim: Any, peers: bool) -> None:
    for first in range(4):
        for second in range(first):
            sim.set_peer(first, second, reach=peers)
