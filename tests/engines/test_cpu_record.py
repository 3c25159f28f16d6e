"""The description of the processor that engines are tied to."""

from __future__ import annotations

import os

import pytest

from parnet_deploy.engines.cpu import (
    available_cores,
    cpu_record,
    describe_capability,
    parse_cpuinfo,
    products_saturate,
)

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu sse4_2 avx avx2 avx512f avx512_vnni

processor\t: 1
model name\t: another
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd sve
CPU implementer\t: 0x41
"""


def test_cpuinfo_of_an_x86_and_an_arm_processor() -> None:
    name, flags = parse_cpuinfo(X86)
    assert name == "Intel(R) Xeon(R) Platinum 8488C"
    assert "avx512_vnni" in flags
    assert parse_cpuinfo(ARM) == (None, frozenset({"fp", "asimd", "sve"}))
    assert parse_cpuinfo("") == (None, frozenset())


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"sse4_2", "avx", "avx2", "avx512f"}, "x86_64 avx512f"),
        ({"sse4_2", "avx", "avx2"}, "x86_64 avx2"),
        ({"fpu"}, "x86_64"),
    ],
)
def test_capability_is_the_widest_vector_extension(flags: set[str], expected: str) -> None:
    assert describe_capability("x86_64", frozenset(flags)) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2"}, True),
        ({"avx2", "avx512f"}, True),
        ({"avx2", "avx_vnni"}, False),
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, False),
        ({"asimd", "asimddp"}, False),
        (set(), False),
    ],
)
def test_products_saturate_without_vnni(flags: set[str], expected: bool) -> None:
    assert products_saturate(frozenset(flags)) is expected


def test_this_machine_is_described() -> None:
    record = cpu_record()
    assert record.device == "cpu"
    assert record.capability.split()[0] == os.uname().machine
    assert record.name


def test_cores_follow_the_affinity_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert available_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores() == 1
