"""Where a prediction's stage times come from: a JSON file, plans measured here, or a device profile's estimate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, TypeAdapter, ValidationError

from parnet_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from parnet_deploy.artifacts.folders import OpenBundle

_MEASURED_RUNS = 10

_Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
_TIMES = TypeAdapter(dict[str, dict[str, _Milliseconds]])


@dataclass(frozen=True)
class StageTimes:
    """Each stage's milliseconds for one request of the bundle's `opt` batch, and in words where they come from."""

    durations_ms: dict[str, float]
    source: str


def times_from_profile(bundles: Sequence[OpenBundle], profile_name: str | None) -> list[StageTimes]:
    """Estimate by a device profile, by default the first one for the precision of the first bundle."""
    from parnet_deploy.planning.estimates import PROFILES, estimate_durations

    precision = bundles[0].manifest.precision
    if profile_name is None:
        profile_name = next(name for name, profile in PROFILES.items() if profile.precision == precision)
    if profile_name not in PROFILES:
        raise ArtifactError(f"no device profile {profile_name!r}", remedy=f"one of: {', '.join(PROFILES)}")
    profile = PROFILES[profile_name]
    source = (
        f"ESTIMATED by the roofline of {profile.name} {profile.precision}: {profile.peak_tflops:g} TFLOP/s at "
        f"efficiency {profile.efficiency:.3g} ({profile.basis}), {profile.memory_gb_s:g} GB/s"
    )
    return [
        StageTimes(estimate_durations(bundle.manifest, profile, bundle_name=str(bundle.folder)), source)
        for bundle in bundles
    ]


def times_from_paths(bundles: Sequence[OpenBundle], paths: Sequence[Path]) -> list[StageTimes]:
    """Take every bundle's times from JSON files and from plans, which are measured now.

    Raises:
        ArtifactError: a file that does not fit, or a bundle without times.
    """
    found: dict[Path, StageTimes] = {}
    for path in paths:
        found |= _measure_plan(path, bundles) if path.is_dir() else _read_times(path, bundles)
    for bundle in bundles:
        if bundle.folder not in found:
            raise ArtifactError(
                "no --times for this bundle, and estimates cannot be ranked with measurements",
                where=bundle.folder,
                remedy="pass times of every bundle, or of none",
            )
    return [found[bundle.folder] for bundle in bundles]


def _read_times(path: Path, bundles: Sequence[OpenBundle]) -> dict[Path, StageTimes]:
    if not path.is_file():
        raise ArtifactError("no such file or folder", where=path, remedy="pass a JSON file or a plan to --times")
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and not any(isinstance(value, dict) for value in content.values()):
            if len(bundles) > 1:
                raise ArtifactError(
                    "times of one bundle, but several bundles are ranked",
                    where=path,
                    remedy='name the folders: {"BUNDLE": {"STAGE": MILLISECONDS}}',
                )
            content = {bundles[0].folder.name: content}
        times = _TIMES.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{field or 'content'}: {first['msg']}", where=path, remedy=_FORMAT) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not valid JSON ({error})", where=path, remedy=_FORMAT) from error
    found = {}
    for name, durations_ms in times.items():
        named = [bundle for bundle in bundles if bundle.folder.name == name]
        if len(named) != 1:
            given = ", ".join(bundle.folder.name for bundle in bundles)
            raise ArtifactError(f"{name!r} names {len(named)} of the bundles {given}", where=path, remedy=_FORMAT)
        stages = [stage.name for stage in named[0].manifest.stages]
        if sorted(durations_ms) != sorted(stages):
            raise ArtifactError(
                f"times of {', '.join(sorted(durations_ms))}, but the bundle's stages are {', '.join(stages)}",
                where=path,
                remedy="give each stage's milliseconds, and no others",
            )
        found[named[0].folder] = StageTimes(durations_ms, f"given by {path}")
    return found


_FORMAT = 'for one bundle {"STAGE": MILLISECONDS}, for several {"BUNDLE": {"STAGE": MILLISECONDS}}'


def _measure_plan(path: Path, bundles: Sequence[OpenBundle]) -> dict[Path, StageTimes]:
    from parnet_deploy.artifacts.folders import open_plan

    plan = open_plan(path).manifest
    made_from = [bundle for bundle in bundles if bundle.sha256 == plan.parent.sha256]
    if not made_from:
        raise ArtifactError("the plan was made from none of the bundles", where=path, remedy="pass its bundle too")
    import numpy as np

    from parnet_deploy.runtime import Session

    with Session.open(path) as session:
        session.warm_up()
        zeros = np.zeros((plan.batch.opt, *plan.preprocessing.input_size), np.float32)
        runs = session.profile(zeros, _MEASURED_RUNS)
    measured: dict[str, list[float]] = {}
    for span in chain.from_iterable(runs):
        if not span.is_copy:
            measured.setdefault(span.stage, []).append(span.end_ms - span.start_ms)
    devices = ", ".join(f"{record.device} ({record.name})" for record in plan.devices)
    source = f"measured here, {plan.backend} on {devices}, each stage as {path} places it, median of {_MEASURED_RUNS}"
    return {made_from[0].folder: StageTimes({name: median(values) for name, values in measured.items()}, source)}
