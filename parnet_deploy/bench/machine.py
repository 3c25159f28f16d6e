"""Describe this machine: what the figures depend on, nothing that identifies a host or a user."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from parnet_deploy.artifacts.report import Machine
from parnet_deploy.engines.cpu import available_cores, cpu_record

_PACKAGES = (
    "parnet-deploy",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-bindings",
    "pycuda",
    "mlcommons-loadgen",
)


def describe_machine() -> Machine:
    """Return the hardware, its load, the operating system, and the versions of what was measured with."""
    processor = cpu_record()
    return Machine(
        cpu=processor.name,
        capability=processor.capability,
        logical_cores=os.cpu_count() or 1,
        usable_cores=available_cores(),
        memory_bytes=_memory_bytes(),
        load_before=_load(),
        system=_system(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=_versions(),
    )


def _memory_bytes() -> int:
    """Return the physical memory, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _load() -> float | None:
    """Return the load average of the last minute."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _system() -> str:
    kernel = f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def peak_memory_bytes() -> int:
    """Return the largest resident size that this process has had."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: Linux carries it over from the process that launched this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
