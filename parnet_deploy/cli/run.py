"""`parnet-deploy run`: classify images with a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from parnet_deploy.artifacts.limits import MAX_WIDTH
from parnet_deploy.cli.common import (
    AdapterOption,
    ForceOption,
    GraphModeName,
    GraphsOption,
    JsonOption,
    NvtxOption,
    PlanArgument,
    TraceOption,
    cuda_options,
    emit,
    write_trace,
)

# Requests of the first batch that a trace shows.
_TRACED_RUNS = 5


def run(
    plan: PlanArgument,
    images: Annotated[list[Path], typer.Argument(help="Images (jpeg, png, ...) or folders.", show_default=False)],
    scaled_jpeg: Annotated[
        bool,
        typer.Option(
            "--scaled-jpeg", help="Decode large JPEG files at a fraction of their size: faster, not the exact numbers."
        ),
    ] = False,
    top: Annotated[int, typer.Option("--top", "-k", min=1, max=MAX_WIDTH, help="How many classes to show.")] = 5,
    trace: TraceOption = None,
    cuda_adapter: AdapterOption = None,
    cuda_graphs: GraphsOption = GraphModeName.auto,
    nvtx: NvtxOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Classify images: the most likely classes with their labels and probabilities.

    Example: parnet-deploy run plan cat.jpg holiday/ --top 3

    Example: parnet-deploy run plan cat.jpg --trace trace.json
    """
    import numpy as np
    from rich.table import Table

    from parnet_deploy.artifacts.files import refuse_file
    from parnet_deploy.runtime import Session
    from parnet_deploy.runtime.answers import require_finite
    from parnet_deploy.runtime.preprocess import find_images, load_images

    if trace is not None:
        refuse_file(trace, force=force)
    paths = [path for given in images for path in find_images(given)]
    results: list[dict[str, Any]] = []
    with Session.open(plan, cuda=cuda_options(cuda_adapter, cuda_graphs, nvtx=nvtx)) as session:
        labels = session.plan.label_names
        step = session.plan.batch.max
        for start in range(0, len(paths), step):
            chunk = paths[start : start + step]
            inputs = load_images(chunk, session.plan.preprocessing, scaled=scaled_jpeg)
            logits = session.infer(inputs).astype(np.float64)
            require_finite(logits, plan)
            exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = exponents / exponents.sum(axis=1, keepdims=True)
            for path, row in zip(chunk, probabilities, strict=True):
                best = np.argsort(-row, kind="stable")[:top]
                results.append(
                    {
                        "image": str(path),
                        "top": [
                            {
                                "class": int(i),
                                "label": labels[i] if labels else f"class {i}",
                                "probability": float(row[i]),
                            }
                            for i in best
                        ],
                    }
                )
        if trace is not None:
            session.warm_up()
            first = load_images(paths[:step], session.plan.preprocessing, scaled=scaled_jpeg)
            title = f"{session.plan.name}, {session.plan.partition}, batch {len(first)}"
            write_trace(trace, session.profile(first, _TRACED_RUNS), title, force=force)
    table = Table("image", "label", "probability", "", box=None)
    for result in results:
        for rank, entry in enumerate(result["top"]):
            bar = "█" * round(20 * entry["probability"])
            table.add_row(
                Path(result["image"]).name if rank == 0 else "", entry["label"], f"{entry['probability']:7.2%}", bar
            )
    emit(results, table, as_json=as_json)
