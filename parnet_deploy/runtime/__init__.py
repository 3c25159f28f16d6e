"""Run plans: preprocessing, the executors and the session. No torch."""

from parnet_deploy.artifacts.cuda_options import CudaOptions
from parnet_deploy.runtime.session import Session

__all__ = ["CudaOptions", "Session"]
