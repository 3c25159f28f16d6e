"""The plans of a tuning in the making: each backend builds each bundle once; arranging them builds nothing again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from parnet_deploy.artifacts.files import write_manifest
from parnet_deploy.artifacts.folders import open_plan
from parnet_deploy.artifacts.schemas import Plan
from parnet_deploy.engines.build import build_plan
from parnet_deploy.engines.cpu import usable_cores
from parnet_deploy.engines.options import BuildOptions
from parnet_deploy.errors import EngineError, ParNetError
from parnet_deploy.planning.arrangement import Arrangement, arrange
from parnet_deploy.tuning.candidates import Candidate
from parnet_deploy.tuning.cuts import Source, cut_bundle


@dataclass
class Workshop:
    """A folder of plans; `sources` are bundles by label."""

    folder: Path
    sources: Mapping[str, Source]
    on_build: Callable[[str], None] = lambda _: None
    _failures: dict[Path, ParNetError] = field(default_factory=dict)

    def _built(self, candidate: Candidate) -> Path:
        """Return the plan of a candidate's bundle by its backend, arranged as it is by default.

        Raises:
            ParNetError: the backend cannot build it; asked again, the same error.
        """
        bundle, backend = candidate.bundle.label, candidate.backend
        variant = "" if candidate.memory_factor is None else f"-x{candidate.memory_factor:g}"
        place = self.folder / "built" / f"{backend}{variant}" / self._name(bundle)
        if place in self._failures:
            raise self._failures[place]
        if not place.exists():
            self.on_build(f"{bundle}, {backend}")
            options = BuildOptions(memory_factor=candidate.memory_factor)
            try:
                build_plan(self._bundle_folder(bundle), place, backend=backend, options=options)
            except ParNetError as error:
                self._failures[place] = error
                raise
        return place

    def _name(self, bundle: str) -> str:
        return str(list(self.sources).index(bundle))

    def _bundle_folder(self, bundle: str) -> Path:
        source = self.sources[bundle]
        if source.cut is None:
            return source.bundle.folder
        folder = self.folder / "cut" / self._name(bundle)
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            cut_bundle(source, folder)
        return folder

    def plan_of(self, candidate: Candidate) -> Path:
        """Return a candidate's plan; raise `ParNetError` if it cannot be built."""
        return self.arranged(candidate, candidate.arrangement)

    def arranged(self, candidate: Candidate, arrangement: Arrangement) -> Path:
        """Return a candidate's plan in another arrangement, whose files are links to the built one's."""
        built = self._built(candidate)
        name = "".join(letter if letter.isalnum() else "-" for letter in str(arrangement))
        place = built.with_name(f"{built.name}-{name}")
        if not place.exists():
            write_arranged(built, place, arrangement)
        return place


def write_arranged(built: Path, place: Path, arrangement: Arrangement) -> Plan:
    """Write a plan's folder with the same engines in another arrangement, and return its manifest.

    Raises:
        EngineError: the arrangement needs more cores than there are.
    """
    try:
        plan = arrange(open_plan(built).manifest, arrangement, usable_cores())
    except ValueError as error:
        raise EngineError(str(error)) from error
    partial = place.with_name(f".{place.name}")
    partial.mkdir(parents=True)
    for engine in plan.engines:
        for file in engine.files:
            link_or_copy(built / file.name, partial / file.name)
    write_manifest(partial / "plan.json", plan)
    partial.rename(place)
    return plan


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or where the file system cannot, copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
