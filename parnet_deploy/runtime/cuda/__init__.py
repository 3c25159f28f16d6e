"""The CUDA driver as this tool uses it: devices, primary contexts, streams, events, memory, and the executor on them.

Only `cuda_bindings` and `pycuda` in this package import a CUDA package, and only once a driver is opened.
"""
