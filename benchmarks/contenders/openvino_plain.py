"""OpenVINO on a plain export, for low latency; with its own choice of precision, or held to float32."""

from __future__ import annotations

from benchmarks.contenders.base import CannotRunError, Job, Opened


def prepare(job: Job) -> None:
    """Export the network."""
    from benchmarks.networks import export_plain

    export_plain(job)


def open_contender(job: Job) -> Opened:
    """Compile the file."""
    try:
        import openvino
    except ImportError as error:
        raise CannotRunError("openvino is not installed") from error
    settings = {"PERFORMANCE_HINT": "LATENCY"}
    if job.option("precision") != "default":
        settings["INFERENCE_PRECISION_HINT"] = job.option("precision")
    model = openvino.Core().compile_model(str(job.onnx_path), "CPU", settings)
    request = model.create_infer_request()
    chosen = str(model.get_property("INFERENCE_PRECISION_HINT"))
    return Opened(
        lambda images: request.infer({"image": images})["logits"],
        details={"openvino": openvino.__version__, "precision": chosen},
    )
