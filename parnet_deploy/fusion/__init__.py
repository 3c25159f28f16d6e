"""Exact fusion of a trained ParNet: `fuse(model)` and the difference it makes. Needs torch."""

from parnet_deploy.fusion.fuse import fuse

__all__ = ["fuse"]
