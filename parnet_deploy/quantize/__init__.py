"""Quantise bundles to int8 and float8 behind an accuracy gate. Needs ONNX, ONNX Runtime and matplotlib, no torch."""

from parnet_deploy.quantize.bundle import quantize_bundle
from parnet_deploy.quantize.source import QuantizeOptions

__all__ = ["QuantizeOptions", "quantize_bundle"]
