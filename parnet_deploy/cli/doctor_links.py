"""`parnet-deploy doctor --links`: measure this machine, as a table and as the file that `plan --link` reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from parnet_deploy.cli.common import progress_bar
from parnet_deploy.errors import EngineError

if TYPE_CHECKING:
    from rich.table import Table

    from parnet_deploy.planning.measured_links import LinkReport
    from parnet_deploy.runtime.cuda.inventory import Inventory


def measure_machine(inventory: Inventory) -> LinkReport:
    """Measure every link of the GPUs that were found.

    Raises:
        EngineError: no GPU, or the measurement failed.
        MissingDependencyError: no package that reaches the driver.
    """
    from parnet_deploy.runtime.cuda.driver import open_driver
    from parnet_deploy.runtime.cuda.links import measure_links

    if not inventory.gpus:
        raise EngineError(
            f"there is no GPU whose links could be measured ({inventory.problem})",
            remedy="run it on the machine with the GPUs, or plan with a named link: parnet-deploy plan --link pcie4x16",
        )
    driver = open_driver()
    count = len(inventory.gpus)
    with progress_bar("measuring links", count * (count + 1)) as progress:
        return measure_links(driver, on_link=lambda _: progress.advance(progress.task_ids[0]))


def write_link(report: LinkReport, path: Path, *, force: bool) -> None:
    """Write the link for the planner, whole or not at all.

    Raises:
        OutputExistsError: the file exists and `force` is not set.
        ArtifactError: it cannot be written.
    """
    from parnet_deploy.artifacts.files import manifest_bytes, replacing_file

    with replacing_file(path, force=force) as temporary:
        temporary.write_bytes(manifest_bytes(report.planner_link))


def draw_links(report: LinkReport) -> Table:
    """Return a row for each way that copies go."""
    from rich.table import Table

    table = Table("from", "to", "path", "latency us", "bandwidth GB/s", box=None)
    for column in table.columns[3:]:
        column.justify = "right"
    for link in report.links:
        table.add_row(link.source, link.target, link.path, f"{link.latency_us:.2f}", f"{link.bandwidth_gb_s:.2f}")
    return table
