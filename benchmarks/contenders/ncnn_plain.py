"""ncnn on a plain export that its own converter, pnnx, has read: a program that `make pnnx` fetches."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders.base import CannotRunError, Images, Job, Opened


def _single(job: Job) -> Job:
    """Return the job of one image, which is what ncnn takes at a time; for batches in a folder of its own."""
    if job.case.batch == 1:
        return job
    return replace(job, case=replace(job.case, batch=1), folder=job.folder / "single")


def _model(job: Job) -> Path:
    return job.folder / f"pnnx-{job.form}-{job.option('precision')}" / "model.ncnn.param"


def prepare(job: Job) -> None:
    """Export the network and convert it, with weights of 32 bits where float32 is asked for."""
    from benchmarks.networks import export_plain

    program = job.tools / "pnnx" / "pnnx" / "pnnx"
    if not program.is_file():
        raise CannotRunError("pnnx is not there: make pnnx")
    job = _single(job)
    job.folder.mkdir(exist_ok=True)
    export_plain(job)
    model = _model(job)
    if model.exists():
        return
    model.parent.mkdir(exist_ok=True)
    source = model.parent / "model.onnx"
    source.unlink(missing_ok=True)
    source.symlink_to(job.onnx_path.resolve())
    pixels = job.case.pixels
    command = [str(program), source.name, f"inputshape=[1,3,{pixels},{pixels}]"]
    command.append(f"fp16={int(job.option('precision') == 'default')}")
    program.chmod(0o755)
    done = subprocess.run(command, cwd=model.parent, capture_output=True, text=True, check=False)
    if done.returncode or not model.exists():
        raise CannotRunError(f"pnnx failed: {done.stderr.strip().splitlines()[-1:]}")


def open_contender(job: Job) -> Opened:
    """Load the model; where float32 is asked for, nothing is stored in 16 bits."""
    try:
        import ncnn
    except ImportError as error:
        raise CannotRunError("ncnn is not installed") from error
    net = ncnn.Net()
    if job.option("precision") != "default":
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{name}", False)
    model = _model(_single(job))
    if net.load_param(str(model)) or net.load_model(str(model.with_suffix(".bin"))):
        raise CannotRunError("ncnn cannot load what pnnx wrote")

    def infer(images: Images) -> NDArray[Any]:
        logits = []
        for image in images:
            extractor = net.create_extractor()
            extractor.input("in0", ncnn.Mat(image))
            logits.append(np.array(extractor.extract("out0")[1]).reshape(-1))
        return np.stack(logits)

    return Opened(infer, details={"ncnn": ncnn.__version__})
