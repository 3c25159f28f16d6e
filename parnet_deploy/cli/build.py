"""`parnet-deploy build`: a bundle becomes a plan of engines for this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parnet_deploy.cli.common import ForceOption, JsonOption, describe, emit, format_bytes, spinner


def build(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Plan folder to write.")],
    backend: Annotated[
        str, typer.Option(help="Which engines: onnxruntime, or null to time the harness.")
    ] = "onnxruntime",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores that the plan may use; default: all that this process has.")
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build the engine of every stage, place the stages and schedule them.

    Example: parnet-deploy build bundle -o plan --backend onnxruntime
    """
    from rich.console import Group
    from rich.table import Table

    from parnet_deploy.artifacts.folders import open_plan
    from parnet_deploy.engines import build_plan

    with spinner("reading the bundle") as progress:
        build_plan(
            bundle,
            output,
            backend=backend,
            threads=threads,
            force=force,
            progress=lambda stage, done, total: describe(progress, f"building {stage} ({done + 1}/{total})"),
        )
        plan = open_plan(output).manifest
    table = Table("stage", "lane", "threads", "engine", box=None)
    for engine in plan.engines:
        table.add_row(
            engine.stage, str(plan.placement[engine.stage]), str(engine.threads), format_bytes(engine.file.size_bytes)
        )
    made = f"{output}: {plan.backend} {plan.backend_version} on {plan.devices[0].name}"
    emit(plan.model_dump(mode="json"), Group(table, made), as_json=as_json)
