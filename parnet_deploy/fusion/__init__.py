"""Exact fusion of a trained ParNet: `fuse(model)` and the difference it makes. Needs torch."""

from parnet_deploy.fusion.difference import Difference, FusionDifference, fusion_difference, measure_difference
from parnet_deploy.fusion.fuse import fuse

__all__ = ["Difference", "FusionDifference", "fuse", "fusion_difference", "measure_difference"]
