"""What the target side takes on disk: without torch, and below half a gigabyte."""

from __future__ import annotations

import pytest

from benchmarks.installation import own_size, packages_of, requirements_of, size_of


@pytest.mark.parametrize("extra", ["onnxruntime", "openvino", "ncnn"])
def test_the_target_side_is_below_500_mb(extra: str) -> None:
    packages = packages_of(requirements_of(extra))
    assert {"numpy", "pydantic", "pydantic-core", extra} <= {name.replace("_", "-") for name in packages}
    assert not {"torch", "timm", "scipy"} & packages.keys()
    total = own_size() + sum(size_of(distribution) for distribution in packages.values())
    assert 50e6 < total < 500e6


def test_a_package_that_is_not_installed_is_named() -> None:
    from importlib.metadata import PackageNotFoundError

    from packaging.requirements import Requirement

    with pytest.raises(PackageNotFoundError, match="no-such-package"):
        packages_of([Requirement("no-such-package")])
