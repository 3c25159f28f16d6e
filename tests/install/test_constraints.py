"""constraints-oldest.txt holds the lower bounds that pyproject.toml declares, and nothing else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
TARGET_EXTRAS = ("onnxruntime", "ncnn", "openvino", "bench", "tune", "quantize", "pull")


def read_pins(name: str) -> dict[str, Version]:
    """Return what a constraints file pins, by canonical name."""
    lines = (ROOT / name).read_text().splitlines()
    pins = (Requirement(line) for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


def lower_bounds() -> dict[str, Version]:
    """Return the lower bounds of what the target side and quantising need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(entry for name in TARGET_EXTRAS for entry in extras[name])]
    bounds = {}
    for requirement in map(Requirement, declared):
        if requirement.name == project["name"]:
            assert requirement.extras <= set(TARGET_EXTRAS)
            continue
        (bound,) = (clause.version for clause in requirement.specifier if clause.operator == ">=")
        assert bounds.setdefault(canonicalize_name(requirement.name), Version(bound)) == Version(bound)
    return bounds


def test_oldest_are_the_lower_bounds() -> None:
    assert read_pins("constraints-oldest.txt") == lower_bounds()


def test_pinned_are_within_the_bounds() -> None:
    pins, bounds = read_pins("constraints.txt"), lower_bounds()
    assert [name for name, bound in bounds.items() if pins[name] < bound] == []


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_exact_and_sorted(name: str) -> None:
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line) for line in lines)
    names = [line.split("==")[0] for line in lines]
    assert names == sorted(names, key=canonicalize_name)
