"""The pictures of a report, each drawn for light and for dark pages."""

from __future__ import annotations

from parnet_deploy.artifacts.report import Report
from parnet_deploy.bench.output.document import Picture
from parnet_deploy.bench.output.plots.latency import distribution_picture, percentile_picture
from parnet_deploy.bench.output.plots.speed_up import paper_picture, speed_up_picture
from parnet_deploy.bench.output.plots.sweep import sweep_picture
from parnet_deploy.bench.output.plots.timeline import timeline_picture


def report_pictures(report: Report) -> dict[str, Picture]:
    """Draw everything that the report has figures for, by the name of the file without its ending.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pictures = (
        speed_up_picture(report),
        distribution_picture(report),
        percentile_picture(report),
        timeline_picture(report),
        sweep_picture(report),
        paper_picture(report),
    )
    return {picture.name.removesuffix(".png"): picture for picture in pictures if picture is not None}
