"""Run plans: preprocessing, the executor and the session. No torch."""

from parnet_deploy.runtime.executor import StageTime
from parnet_deploy.runtime.session import Session

__all__ = ["Session", "StageTime"]
