"""`parnet-deploy verify`: two artefacts of one network give the same numbers, or exit 1."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parnet_deploy.artifacts.limits import MAX_FACTOR, MAX_SEED
from parnet_deploy.cli.common import ForceOption, JsonOption, emit, finite, format_bytes, spinner, stderr
from parnet_deploy.cli.names import DATA, complete
from parnet_deploy.errors import CheckFailedError, DataError

if TYPE_CHECKING:
    from parnet_deploy.artifacts.verification import Verification
    from parnet_deploy.checks.compare import Detail

_IMAGES = "Images"
_GOLDEN = "Golden files"
_OUTPUT = "Output"


def verify(
    a: Annotated[Path, typer.Argument(help="Checkpoint, bundle or plan: the reference.", show_default=False)],
    b: Annotated[
        Path | None,
        typer.Argument(help="Checkpoint, bundle or plan to compare with it; none with a golden file."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="'digits', an image or a folder of images to compare on.",
            rich_help_panel=_IMAGES,
            autocompletion=complete(DATA),
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, max=65_536, help="Images of each kind; default: 4.", rich_help_panel=_IMAGES)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Of the random images; default: 0.", rich_help_panel=_IMAGES)
    ] = None,
    per_stage: Annotated[bool, typer.Option("--per-stage", help="Compare every tensor that both compute.")] = False,
    per_layer: Annotated[
        bool, typer.Option("--per-layer", help="Compare every block that both can tell; say which departs first.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=MAX_FACTOR,
            callback=finite,
            help="Relative; default: by the coarser precision, see docs/verify.md.",
        ),
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare with what this file remembers.", rich_help_panel=_GOLDEN),
    ] = None,
    write_golden: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Remember what the artefact answers.", rich_help_panel=_GOLDEN),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Report to write: JSON, Markdown, picture, HTML page; with --per-layer.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a test case per tensor and set of images; an old file is replaced.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two artefacts, or one with a golden file, on real and random images; exit 1 beyond the tolerance.

    Example: parnet-deploy verify parnet_l.safetensors plan --per-layer -o report

    Example: parnet-deploy verify plan --write-golden plan.golden.json

    Example: parnet-deploy verify plan --golden plan.golden.json --junit verify.xml
    """
    from parnet_deploy.artifacts.files import refuse_file
    from parnet_deploy.checks.publish import write_report
    from parnet_deploy.checks.report_document import rich_verification

    _check_arguments(b, golden, write_golden)
    if write_golden is not None:
        unused = {"--per-stage": per_stage, "--per-layer": per_layer, "-o": output, "--junit": junit}
        _refuse(unused, "--write-golden")
        _remember(a, write_golden, data, count, seed, tolerance, force=force, as_json=as_json)
        return
    if junit is not None:
        refuse_file(junit, force=True)
    if output is not None:
        _check_output(output, force=force)
    reference, compared = (golden, a) if golden is not None else (a, b or a)
    try:
        if golden is not None:
            _refuse({"--count": count, "--seed": seed}, "--golden, whose images are those that it was written for")
            verification = _with_golden(a, golden, data, tolerance)
        else:
            detail: Detail = "layers" if per_layer or output is not None else ("stages" if per_stage else "logits")
            verification = _with_each_other(a, compared, data, count, seed, detail, tolerance)
    except CheckFailedError as error:
        _write_junit(junit, error)
        raise
    has_table = per_layer or output is not None or not verification.passed
    result = _result(verification, reference, compared)
    _write_junit(junit, verification)
    if output is not None:
        write_report(output, verification, force=force)
        stderr().print(f"report: {output / 'report.html'}", soft_wrap=True)
    emit(result, rich_verification(verification, has_layers=has_table), as_json=as_json)
    if not verification.passed:
        _fail(verification, f"{compared} against {reference}")


def _check_arguments(b: Path | None, golden: Path | None, write_golden: Path | None) -> None:
    others = {"B": b, "--golden": golden, "--write-golden": write_golden}
    given = [name for name, value in others.items() if value is not None]
    if len(given) != 1:
        raise DataError(
            f"{' and '.join(given)} exclude each other" if given else "nothing to compare with",
            remedy="pass a second artefact, --golden FILE or --write-golden FILE",
        )


def _refuse(options: dict[str, Any], beside: str) -> None:
    given = [name for name, value in options.items() if value not in (None, False)]
    if given:
        shown = " and ".join(given)
        raise DataError(f"{shown} cannot be used with {beside}", remedy=f"leave out {shown}")


def _check_output(output: Path, *, force: bool) -> None:
    """Refuse before the long work what could not be written after it."""
    from parnet_deploy.artifacts.files import holds, refuse_folder
    from parnet_deploy.reporting.publish import check_publishing

    refuse_folder(output, force=force, is_ours=holds("report.json"))
    check_publishing()


def _with_each_other(
    a: Path, b: Path, data: str | None, count: int | None, seed: int | None, detail: Detail, tolerance: float | None
) -> Verification:
    from parnet_deploy.checks.gate import DEFAULT_COUNT, verify_artefacts

    with spinner(f"comparing {a.name} with {b.name}"):
        return verify_artefacts(
            a, b, data=data, count=count or DEFAULT_COUNT, seed=seed or 0, detail=detail, tolerance=tolerance
        )


def _with_golden(artefact: Path, golden: Path, data: str | None, tolerance: float | None) -> Verification:
    from parnet_deploy.checks.gate import verify_golden

    with spinner(f"comparing {artefact.name} with {golden.name}"):
        return verify_golden(artefact, golden, data=data, tolerance=tolerance)


def _remember(
    artefact: Path,
    path: Path,
    data: str | None,
    count: int | None,
    seed: int | None,
    tolerance: float | None,
    *,
    force: bool,
    as_json: bool,
) -> None:
    from parnet_deploy.checks.gate import DEFAULT_COUNT, remember

    with spinner(f"reading {artefact.name}"):
        golden = remember(
            artefact, path, data=data, count=count or DEFAULT_COUNT, seed=seed or 0, tolerance=tolerance, force=force
        )
    size_bytes, tensors = path.stat().st_size, len(golden.sets[0].tensors)
    sets = [entry.images for entry in golden.sets]
    result = {
        "golden": str(path),
        "artefact": str(artefact),
        "size_bytes": size_bytes,
        "tensors": tensors,
        "images": [images.model_dump(mode="json") for images in sets],
    }
    shown = " and ".join(f"{images.count} {images.name}" for images in sets)
    kept = f"logits and {tensors} tensors of {artefact.name} on {shown} images"
    emit(result, f"{path}: {kept}, {format_bytes(size_bytes)}", as_json=as_json)


def _result(verification: Verification, reference: Path, compared: Path) -> dict[str, Any]:
    from parnet_deploy.checks.verification import findings, verdict

    record = verification.model_dump(mode="json")
    return {
        **record,
        "a": str(reference),
        "b": str(compared),
        "artefacts": {"a": record["a"], "b": record["b"]},
        "verdict": verdict(verification),
        "findings": findings(verification),
    }


def _write_junit(path: Path | None, outcome: Verification | CheckFailedError) -> None:
    if path is not None:
        from parnet_deploy.checks.junit import write_junit

        write_junit(path, outcome)


def _fail(verification: Verification, where: str) -> None:
    from parnet_deploy.checks.verification import failure

    has_layers = bool(verification.comparisons[0].layers)
    raise CheckFailedError(
        failure(verification),
        where=where,
        remedy=None if has_layers else "see which layer departs first with --per-layer",
    )
