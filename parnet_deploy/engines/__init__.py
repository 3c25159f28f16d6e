"""Build engines from the stages of a bundle and load them; one file per backend, nothing else imports its package."""

from parnet_deploy.engines.build import build_plan
from parnet_deploy.engines.registry import BACKEND_NAMES, get_backend

__all__ = ["BACKEND_NAMES", "build_plan", "get_backend"]
