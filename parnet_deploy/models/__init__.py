"""ParNet networks, registered with timm by importing this package, and their checkpoints. Needs torch."""

from parnet_deploy.models import variants as _registered  # noqa: F401
from parnet_deploy.models.checkpoints import load_checkpoint, save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
