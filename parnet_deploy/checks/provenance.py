"""Say what an artefact is, what it was made by, and where it is run."""

from __future__ import annotations

import importlib.metadata
import platform

from parnet_deploy import __version__
from parnet_deploy.artifacts.folders import OpenBundle, OpenCard, OpenPlan
from parnet_deploy.artifacts.verification import ArtefactRecord, Environment
from parnet_deploy.engines.cpu import cpu_record

# What the numbers may depend on.
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13", "torch", "pillow")


def checkpoint_record(opened: OpenCard) -> ArtefactRecord:
    """Describe a checkpoint, which is computed in float32."""
    card = opened.manifest
    return ArtefactRecord(
        kind="checkpoint",
        name=opened.weights_path.name,
        sha256=opened.sha256,
        architecture=card.architecture,
        form=card.form,
        precision="fp32",
        parent=card.parent,
    )


def bundle_record(opened: OpenBundle) -> ArtefactRecord:
    """Describe a bundle and the versions of what exported it."""
    bundle = opened.manifest
    return ArtefactRecord(
        kind="bundle",
        name=opened.folder.name,
        sha256=opened.sha256,
        architecture=bundle.name,
        form=bundle.form,
        precision=bundle.precision,
        partition=bundle.partition,
        parent=bundle.parent,
        tools=bundle.tools,
    )


def plan_record(opened: OpenPlan) -> ArtefactRecord:
    """Describe a plan, the backend that built it and the devices that it was built for."""
    plan = opened.manifest
    return ArtefactRecord(
        kind="plan",
        name=opened.folder.name,
        sha256=opened.sha256,
        architecture=plan.name,
        form=plan.form,
        precision=plan.precision,
        partition=plan.partition,
        parent=plan.parent,
        tools={plan.backend: plan.backend_version},
        devices=plan.devices,
    )


def describe_environment() -> Environment:
    """Return this machine's processor and the versions of what the numbers may depend on."""
    processor = cpu_record()
    return Environment(
        tool_version=__version__,
        processor=processor.name,
        capability=processor.capability,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: version for name in _PACKAGES if (version := _version_of(name)) is not None},
    )


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
