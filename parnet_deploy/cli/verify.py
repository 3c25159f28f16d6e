"""`parnet-deploy verify`: two artefacts of one network give the same numbers, or exit 1."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parnet_deploy.cli.common import JsonOption, emit, spinner
from parnet_deploy.errors import CheckFailedError


def verify(
    a: Annotated[Path, typer.Argument(help="Checkpoint, bundle or plan: the reference.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Checkpoint, bundle or plan to compare with it.", show_default=False)],
    data: Annotated[str | None, typer.Option(help="'digits', an image or a folder of images to compare on.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images of each kind.")] = 4,
    per_stage: Annotated[bool, typer.Option("--per-stage", help="Compare every tensor that both compute.")] = False,
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="Relative; default: 1e-4 for fp32, 1e-2 where either side is fp16.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two artefacts on real and random images; exit 1 beyond the tolerance.

    Example: parnet-deploy verify parnet_l.safetensors plan --per-stage
    """
    from rich.console import Group
    from rich.table import Table

    from parnet_deploy.checks.compare import compare
    from parnet_deploy.checks.images import comparison_images
    from parnet_deploy.checks.predictors import open_predictor

    with spinner(f"comparing {a.name} with {b.name}"), open_predictor(a) as first, open_predictor(b) as second:
        # The later artefact may have been exported at a resolution of its own.
        preprocessing = second.preprocessing if second.kind != "checkpoint" else first.preprocessing
        images = comparison_images(preprocessing, data, count)
        comparisons = compare(first, second, images, per_stage=per_stage, tolerance=tolerance)
    passed = all(comparison.passed for comparison in comparisons)
    table = Table("images", "tensor", "max abs", "relative", "cosine", "top-1 agreement", box=None)
    for comparison in comparisons:
        for entry in (*comparison.stages, comparison.logits):
            agreement = f"{comparison.top1_agreement:.2%}" if entry is comparison.logits else ""
            style = None if entry.relative <= comparison.tolerance else "bold red"
            table.add_row(
                f"{comparison.count} {comparison.images}",
                entry.name,
                f"{entry.max_abs:.2e}",
                f"{entry.relative:.2e}",
                f"{entry.cosine:.9f}",
                agreement,
                style=style,
            )
    bound = comparisons[0].tolerance
    verdict = f"{'same' if passed else 'DIFFERENT'} within {bound:.0e} relative"
    result = {"a": str(a), "b": str(b), "passed": passed, "comparisons": [c.as_dict() for c in comparisons]}
    emit(result, Group(table, verdict), as_json=as_json)
    if not passed:
        worst = max((e for c in comparisons for e in (*c.stages, c.logits)), key=lambda entry: entry.relative)
        raise CheckFailedError(
            f"{worst.name} differs by {worst.relative:.1e} relative, beyond {bound:.0e}",
            where=f"{a} against {b}",
            remedy=None if per_stage else "see which stage departs with --per-stage",
        )
