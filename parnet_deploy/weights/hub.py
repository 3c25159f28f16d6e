"""Fetch a repository of the Hugging Face Hub, into the Hub's own cache and by its own client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parnet_deploy.errors import DownloadError

HUB_PREFIX: Final = "hf-hub:"
# Nothing else is fetched, so that no pickle comes onto the machine.
_FILES = ["config.json", "model.safetensors"]


@dataclass(frozen=True)
class HubSnapshot:
    """Files of a repository at one commit."""

    folder: Path
    repository: str
    commit: str


def fetch_hub_repository(name: str) -> HubSnapshot:
    """Fetch the weights and configuration of `USER/NAME` or `USER/NAME@REVISION`.

    `HF_ENDPOINT` (a mirror), `HF_TOKEN`, `HF_HOME` (the cache) and `HF_HUB_OFFLINE` are honoured, as in any other tool.

    Raises:
        DownloadError: the repository, or a network to reach it by, is not there.
    """
    import httpx2
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=_FILES))
    except (OSError, ValueError, httpx2.HTTPError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DownloadError(
            f"cannot be fetched from the Hub ({first_line})",
            where=f"{HUB_PREFIX}{name}",
            remedy="check the name and the network; HF_ENDPOINT names a mirror, HF_TOKEN gives access to private ones",
        ) from error
    return HubSnapshot(folder, repository, folder.name)
