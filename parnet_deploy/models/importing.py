"""Turn a file of the authors' release into a checkpoint: what `import` and `pull` share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.files import sha256_of_file
from parnet_deploy.artifacts.schemas import Card, Parent, Preprocessing
from parnet_deploy.errors import CheckpointError, DownloadError
from parnet_deploy.models.authors import import_checkpoint
from parnet_deploy.models.blocks import Activation
from parnet_deploy.models.checkpoints import refuse_checkpoint, save_checkpoint
from parnet_deploy.models.variants import architecture_of
from parnet_deploy.weights.cache import WeightsCache, check_download
from parnet_deploy.weights.pull import PulledWeights
from parnet_deploy.weights.releases import REPOSITORY


def convert_authors_file(
    file: Path,
    output: Path,
    *,
    ema: bool = True,
    activation: Activation | None = None,
    config: Path | None = None,
    resolution: int = 224,
    origin: Mapping[str, Any],
    force: bool = False,
) -> Card:
    """Import a `.pth.tar` of the authors' format and write it as a checkpoint; see `import_checkpoint`.

    A file that was pulled is first held to its record. `origin` is put into the card beside what the file says.

    Raises:
        OutputExistsError: the output exists and `force` is not set.
        DownloadError: the file was pulled, and is not what was recorded.
        CheckpointError: unreadable, unsafe or foreign content, or weights that make no ParNet.
    """
    refuse_checkpoint(output, force=force)
    record = check_download(file)
    found = import_checkpoint(file, ema=ema, activation=activation, config=config)
    sha256 = sha256_of_file(file)
    if record is not None and sha256 != record.file.sha256:
        raise DownloadError("the file changed while it was imported", where=file, remedy="pull it again")
    told = {"weight_set": found.weight_set, "activation_reason": found.activation_reason}
    if found.epoch is not None:
        told["epoch"] = str(found.epoch)
    return save_checkpoint(
        output,
        found.model,
        architecture=architecture_of(found.model.cfg),
        preprocessing=Preprocessing(input_size=(found.model.cfg.in_chans, resolution, resolution)),
        parent=Parent(kind="file", name=file.name, sha256=sha256),
        origin={**origin, **told},
        force=force,
    )


def convert_pulled(
    pulled: PulledWeights,
    cache: WeightsCache,
    output: Path,
    *,
    ema: bool = True,
    activation: Activation | None = None,
    config: Path | None = None,
    force: bool = False,
) -> Card:
    """Import pulled weights; the card says where they came from. What was first seen now and is refused is not kept.

    Raises:
        OutputExistsError, DownloadError, CheckpointError: as `convert_authors_file`.
    """
    file = pulled.record.file
    origin = {
        "made_by": "parnet-deploy pull",
        "release": f"{REPOSITORY} {pulled.record.release}",
        "source": pulled.record.source,
        "sha256": file.sha256,
        "size_bytes": file.size_bytes,
    }
    try:
        return convert_authors_file(
            pulled.path,
            output,
            ema=ema,
            activation=activation,
            config=config,
            resolution=pulled.weights.resolution,
            origin=origin,
            force=force,
        )
    except CheckpointError as error:
        if pulled.is_new and error.where == str(pulled.path):  # the file is at fault, not the options
            cache.forget(pulled.weights.asset)
        raise
