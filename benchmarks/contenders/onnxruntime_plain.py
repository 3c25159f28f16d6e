"""ONNX Runtime on a plain export, with its defaults: all optimisations, all cores."""

from __future__ import annotations

import onnxruntime

from benchmarks.contenders.base import Job, Opened


def prepare(job: Job) -> None:
    """Export the network."""
    from benchmarks.networks import export_plain

    export_plain(job)


def open_contender(job: Job) -> Opened:
    """Open a session on the file."""
    session = onnxruntime.InferenceSession(str(job.onnx_path), providers=["CPUExecutionProvider"])
    return Opened(
        lambda images: session.run(["logits"], {"image": images})[0], details={"onnxruntime": onnxruntime.__version__}
    )
