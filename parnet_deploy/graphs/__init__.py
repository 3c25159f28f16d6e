"""Read, cut, run and write ONNX graphs of networks. Needs onnx, onnx-ir and onnxruntime, no torch."""
