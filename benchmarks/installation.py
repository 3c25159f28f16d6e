"""Sum up what an installation of the target side takes on disk: `python -m benchmarks.installation [EXTRA ...]`.

Sizes are those of the files of the installed packages that an extra brings, directly or not, as their records list
them; bytecode that Python writes at the first import is in it where it has been written.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

import parnet_deploy

_TARGET_EXTRAS = ("onnxruntime", "openvino", "ncnn")


def requirements_of(extra: str) -> list[Requirement]:
    """Return what `parnet-deploy[extra]` asks for, as the project file says: an installation may be older."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"][extra])]


def packages_of(requirements: Iterable[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """Return the installed packages that requirements bring, directly or not, by name.

    Raises:
        PackageNotFoundError: one of them is not installed.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = list(requirements)
    seen = set()
    while todo:
        wanted = todo.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        distribution = importlib.metadata.distribution(wanted.name)
        found[distribution.name.lower()] = distribution
        environments = [{"extra": name} for name in (*wanted.extras, "")]
        for needed in map(Requirement, distribution.requires or ()):
            if needed.marker is None or any(needed.marker.evaluate(environment) for environment in environments):
                todo.append(needed)
    return found


def size_of(distribution: importlib.metadata.Distribution) -> int:
    """Return the bytes of a package's files."""
    paths = (Path(str(file.locate())) for file in distribution.files or ())
    return sum(path.stat().st_size for path in paths if path.is_file())


def own_size() -> int:
    """Return the bytes of this package's sources."""
    return sum(path.stat().st_size for path in Path(parnet_deploy.__file__).parent.rglob("*") if path.suffix != ".pyc")


def main() -> None:
    """Print the largest packages of each extra and the sum."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", default=list(_TARGET_EXTRAS), metavar="EXTRA")
    for extra in parser.parse_args().extras:
        sizes = {name: size_of(distribution) for name, distribution in packages_of(requirements_of(extra)).items()}
        sizes["parnet-deploy"] = own_size()
        largest = sorted(sizes.items(), key=lambda entry: -entry[1])[:5]
        told = ", ".join(f"{name} {size / 1e6:.0f}" for name, size in largest)
        print(f"parnet-deploy[{extra}]: {sum(sizes.values()) / 1e6:.0f} MB in {len(sizes)} packages ({told}, ..)")


if __name__ == "__main__":
    main()
