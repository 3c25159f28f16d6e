"""`parnet-deploy doctor`: what this machine can run, and what to install for what it cannot."""

from __future__ import annotations

import importlib.util
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parnet_deploy.cli.common import ForceOption, JsonOption, emit, format_bytes
from parnet_deploy.errors import ArtifactError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from parnet_deploy.runtime.cuda.inventory import Choice, Inventory

# What a person wants to do, the packages for it (module, distribution) and the extra that installs them.
CAPABILITIES: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    (
        "train, import, fuse",
        (
            ("torch", "torch"),
            ("timm", "timm"),
            ("safetensors", "safetensors"),
            ("accelerate", "accelerate"),
            ("torchmetrics", "torchmetrics"),
        ),
        "author",
    ),
    (
        "export",
        (
            ("torch", "torch"),
            ("onnx", "onnx"),
            ("onnx_ir", "onnx-ir"),
            ("onnxscript", "onnxscript"),
            ("onnxsim", "onnxsim"),
        ),
        "author",
    ),
    ("build and run, onnxruntime on CPU", (("onnxruntime", "onnxruntime"),), "onnxruntime"),
    ("build and run, ncnn on CPU", (("ncnn", "ncnn"), ("onnx", "onnx")), "ncnn"),
    ("build and run, openvino on CPU", (("openvino", "openvino"),), "openvino"),
    (
        "build and run, onnxruntime-cuda on GPUs",
        # Both packages are the module `onnxruntime`; the provider's library is in one of them.
        (("onnxruntime.capi.libonnxruntime_providers_cuda", "onnxruntime-gpu"), ("onnx", "onnx")),
        "onnxruntime-gpu",
    ),
    ("build and run, torch on CPU and GPUs", (("torch", "torch"), ("onnx", "onnx")), "author"),
    ("build TensorRT engines without a GPU", (("tensorrt_rtx", "tensorrt-rtx-cu13"),), "tensorrt-rtx"),
    ("build TensorRT engines on a GPU", (("tensorrt", "tensorrt"),), "tensorrt"),
    ("reach the CUDA driver", (("cuda.bindings", "cuda-bindings"),), "cuda"),
    (
        "serve-bench",
        (("mlperf_loadgen", "mlcommons-loadgen"), ("matplotlib", "matplotlib"), ("jinja2", "jinja2")),
        "bench",
    ),
)


def doctor(
    links: Annotated[
        bool, typer.Option("--links", help="Measure what copies take between GPUs and to and from the host.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="With --links: a file to write for plan --link (.json).", show_default=False
        ),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show what this machine can run, what its GPUs reach, and what to install for what is missing.

    Example: parnet-deploy doctor

    Example: parnet-deploy doctor --links -o link.json
    """
    from rich.console import Group
    from rich.text import Text

    from parnet_deploy.artifacts.files import refuse_existing
    from parnet_deploy.cli.doctor_links import draw_links, measure_machine, write_link
    from parnet_deploy.runtime.cuda.inventory import take_inventory

    if output is not None:
        if not links:
            raise ArtifactError("-o is for what --links measures", remedy="add --links")
        refuse_existing(output, force=force)
    inventory = take_inventory()
    report = measure_machine(inventory) if links else None
    machine = _machine(inventory)
    capabilities = [_examine(*entry) for entry in CAPABILITIES]
    conflict = _conflicting_runtimes()
    lines = [*_describe(machine, inventory), _table_of(capabilities)]
    if conflict:
        lines.append(Text(conflict, style="yellow"))
    if report is not None:
        lines += ["", draw_links(report), f"for the planner, the slowest of each: {report.planner_link.description}"]
    if report is not None and output is not None:
        write_link(report, output, force=force)
        lines.append(f"{output}: for parnet-deploy plan --link {output}")
    result = {
        "machine": machine,
        "capabilities": capabilities,
        "conflict": conflict,
        "links": None if report is None else report.model_dump(mode="json"),
        "planner_link": None if report is None else report.planner_link.model_dump(mode="json"),
    }
    emit(result, Group(*lines), as_json=as_json)


def _machine(inventory: Inventory) -> dict[str, Any]:
    from parnet_deploy.engines.cpu import available_cores, cpu_record

    cpu = cpu_record()
    return {
        "python": platform.python_version(),
        "cpu": cpu.name,
        "capability": cpu.capability,
        "cores": available_cores(),
        "gpus": [{"device": f"cuda:{gpu.ordinal}", **asdict(gpu)} for gpu in inventory.gpus],
        "gpu_problem": inventory.problem,
        "cuda_driver": inventory.cuda_version,
        "paths": [
            {"source": f"cuda:{source}", "target": f"cuda:{target}", "path": path}
            for (source, target), path in inventory.paths.items()
        ],
        "tensorrt": asdict(inventory.tensorrt),
        "cuda_adapter": asdict(inventory.adapter),
        "onnxruntime_providers": _execution_providers(),
    }


def _describe(machine: dict[str, Any], inventory: Inventory) -> list[RenderableType]:
    providers = ", ".join(machine["onnxruntime_providers"])
    lines: list[RenderableType] = [
        f"python {machine['python']}, {machine['cpu']} ({machine['capability']}), {machine['cores']} cores"
    ]
    if inventory.gpus:
        lines.append(f"GPUs, by a driver for CUDA up to {inventory.cuda_version}:")
        lines.append(_table_of_gpus(inventory))
    if inventory.problem:
        found = "GPU: none" if not inventory.gpus else "the driver fails"
        lines.append(f"{found} ({inventory.problem}); install NVIDIA's driver, or run the container with --gpus all")
    if inventory.paths:
        lines.append("copies from GPU to GPU, directly or staged in the host's memory:")
        lines.append(_table_of_paths(inventory))
    lines.append(f"TensorRT: {_told(inventory.tensorrt)}")
    lines.append(f"CUDA adapter: {_told(inventory.adapter)}")
    lines.append(f"ONNX Runtime providers: {providers or 'none'}")
    return lines


def _told(choice: Choice) -> str:
    remedy = f"; {choice.remedy}" if choice.remedy else ""
    if choice.name is None:
        return f"none: {choice.reason}{remedy}"
    return f"{choice.name} {choice.version or 'of unknown version'} ({choice.reason}{remedy})"


def _table_of_gpus(inventory: Inventory) -> Table:
    from rich.table import Table

    table = Table("device", "name", "compute capability", "memory", box=None)
    for gpu in inventory.gpus:
        major, minor = gpu.compute_capability[:-1], gpu.compute_capability[-1]
        table.add_row(f"cuda:{gpu.ordinal}", gpu.name, f"{major}.{minor}", format_bytes(gpu.memory_bytes))
    return table


def _table_of_paths(inventory: Inventory) -> Table:
    from rich.table import Table

    ordinals = [gpu.ordinal for gpu in inventory.gpus]
    told = {"peer": "yes", "staged": "staged"}
    table = Table("from \\ to", *(f"cuda:{ordinal}" for ordinal in ordinals), box=None)
    for source in ordinals:
        cells = (told.get(inventory.paths.get((source, target), ""), "-") for target in ordinals)
        table.add_row(f"cuda:{source}", *cells)
    return table


def _table_of(capabilities: list[dict[str, Any]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "ready", "versions", "remedy", box=None)
    for row in capabilities:
        versions = ", ".join(f"{name} {found}" for name, found in row["versions"].items())
        ready = Text("yes", style="green") if row["ready"] else Text("no", style="red")
        table.add_row(row["what"], ready, versions, row["remedy"] or "")
    return table


def _examine(what: str, packages: tuple[tuple[str, str], ...], extra: str) -> dict[str, Any]:
    missing = [dist for module, dist in packages if not _is_installed(module)]
    return {
        "what": what,
        "ready": not missing,
        "versions": {dist: _version(dist) for module, dist in packages if dist not in missing},
        "missing": missing,
        "remedy": f"pip install 'parnet-deploy[{extra}]'" if missing else None,
    }


def _is_installed(module: str) -> bool:
    """Look for a module without importing it; of a dotted name, the package before the dot is imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"


def _execution_providers() -> list[str]:
    if not _is_installed("onnxruntime"):
        return []
    import onnxruntime

    return list(onnxruntime.get_available_providers())


def _conflicting_runtimes() -> str | None:
    """Tell if both builds of ONNX Runtime are installed: they share one folder, and the later one wins in silence."""
    both = ("onnxruntime", "onnxruntime-gpu")
    if all(_version(name) != "unknown" for name in both):
        return f"{' and '.join(both)} overwrite each other: uninstall both, then install the one you want"
    return None
