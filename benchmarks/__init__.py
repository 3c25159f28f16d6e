"""Measurements of parnet-deploy beside its peers; `python -m benchmarks --help`."""
