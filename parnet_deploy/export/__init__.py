"""Export checkpoints to ONNX bundles: one graph, clean, named, cut into stages, checked. Needs torch and onnx."""

from parnet_deploy.export.bundle import ExportOptions, export_bundle

__all__ = ["ExportOptions", "export_bundle"]
