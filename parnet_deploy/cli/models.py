"""`parnet-deploy models`: every variant, with its size before and after fusion."""

from __future__ import annotations

from typing import Any

from parnet_deploy.cli.common import JsonOption, emit


def models(as_json: JsonOption = False) -> None:
    """List every variant: parameters in each form, GFLOP, depth, and the accuracy that the paper reports.

    Example: parnet-deploy models --json
    """
    from rich.console import Group
    from rich.table import Table

    from parnet_deploy.models.cost import measure_cost
    from parnet_deploy.models.variants import VARIANTS

    rows: list[dict[str, Any]] = []
    for name, variant in VARIANTS.items():
        cost = measure_cost(variant.network, variant.preprocessing.input_size)
        rows.append(
            {
                "name": name,
                "parameters_training": cost.parameters_training,
                "parameters_reparameterized": cost.parameters_reparameterized,
                "parameters_fused": cost.parameters_fused,
                "gflop_fused": round(cost.gflop_fused, 3),
                "depth": variant.network.depth,
                "streams": variant.network.num_streams,
                "input_size": list(variant.preprocessing.input_size),
                "classes": variant.network.num_classes,
                "paper_top1": variant.paper_top1,
                "paper_dataset": variant.paper_dataset,
                "source": variant.source,
            }
        )
    headings = ("model", "params, training", "convs merged", "fused", "GFLOP", "depth", "streams", "input")
    table = Table(
        *headings,
        "paper top-1",
        "source",
        box=None,
    )
    for row in rows:
        top1 = f"{row['paper_top1']:.2f} {row['paper_dataset']}" if row["paper_top1"] else ""
        table.add_row(
            row["name"],
            f"{row['parameters_training']:,}",
            f"{row['parameters_reparameterized']:,}",
            f"{row['parameters_fused']:,}",
            f"{row['gflop_fused']:.2f}",
            str(row["depth"]),
            str(row["streams"]),
            "x".join(str(side) for side in row["input_size"]),
            top1,
            row["source"],
        )
    note = "'convs merged' is the count that the paper gives; GFLOP is 2 x MAC of the fused form, for one image"
    emit(rows, Group(table, note), as_json=as_json)
