"""What this machine's processor is, as far as an engine built for it depends on that."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from functools import cache
from pathlib import Path

from parnet_deploy.artifacts.schemas import DeviceRecord

# Widest vectors first: they decide the memory layout that convolutions are compiled to.
_VECTOR_EXTENSIONS = ("avx512f", "avx2", "avx", "sse4_2", "sve", "asimd", "neon")


def available_cores() -> int:
    """Return how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores() -> tuple[int, ...]:
    """Return the logical cores that the calling thread may run on, in ascending order."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def keep_on_cores(cores: Collection[int]) -> None:
    """Keep the calling thread on those of `cores` that it may use; on none of them, or not on Linux, leave it as it is.

    A plan names the cores of the machine that it was tuned on; a container may have been given others since.
    """
    usable = set(cores).intersection(usable_cores())
    if usable and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, usable)


def parse_cpuinfo(text: str) -> tuple[str | None, frozenset[str]]:
    """Return the model name and the feature flags of the first processor in the text of `/proc/cpuinfo`."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = fields.get("flags") or fields.get("features") or ""
    return fields.get("model name") or None, frozenset(flags.split())


def describe_capability(machine: str, flags: frozenset[str]) -> str:
    """Return the architecture and its widest vector extension, as in `x86_64 avx512f`."""
    return " ".join([machine, *[name for name in _VECTOR_EXTENSIONS if name in flags][:1]])


def products_saturate(flags: frozenset[str]) -> bool:
    """Tell if a processor's quickest int8 arithmetic adds two products in 16 bits, and saturates there.

    Source: VPMADDUBSW in Intel's manual, which AVX2 and AVX-512 have and VNNI's VPDPBUSD replaces.
    """
    return "avx2" in flags and flags.isdisjoint({"avx_vnni", "avx512_vnni"})


@cache
def read_cpuinfo() -> tuple[str | None, frozenset[str]]:
    """Return what `parse_cpuinfo` makes of this machine's `/proc/cpuinfo`: nothing where that is missing."""
    path = Path("/proc/cpuinfo")
    return parse_cpuinfo(path.read_text(errors="replace") if path.is_file() else "")


def cpu_record() -> DeviceRecord:
    """Describe this machine's processor; where `/proc/cpuinfo` is missing, by its architecture alone."""
    name, flags = read_cpuinfo()
    machine = platform.machine() or "unknown"
    return DeviceRecord(
        device="cpu", name=name or platform.processor() or machine, capability=describe_capability(machine, flags)
    )
