"""`parnet-deploy doctor`: what this machine can run, and what to install for what it cannot."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from parnet_deploy.cli.common import JsonOption, emit

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
    ("build TensorRT engines without a GPU", (("tensorrt_rtx", "tensorrt-rtx-cu13"),), "tensorrt-rtx"),
    ("build TensorRT engines on a GPU", (("tensorrt", "tensorrt"),), "tensorrt"),
    ("reach the CUDA driver", (("cuda.bindings", "cuda-bindings"),), "cuda"),
    (
        "serve-bench",
        (("mlperf_loadgen", "mlcommons-loadgen"), ("matplotlib", "matplotlib"), ("jinja2", "jinja2")),
        "bench",
    ),
)


def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine can run, and what to install for what it cannot.

    Example: parnet-deploy doctor
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from parnet_deploy.engines.cpu import available_cores, cpu_record

    capabilities = [_examine(*entry) for entry in CAPABILITIES]
    providers = _execution_providers()
    gpus = _gpus()
    cpu = cpu_record()
    machine = {
        "python": platform.python_version(),
        "cpu": cpu.name,
        "capability": cpu.capability,
        "cores": available_cores(),
        "gpus": gpus,
        "onnxruntime_providers": providers,
    }
    table = Table("what", "ready", "versions", "remedy", box=None)
    for row in capabilities:
        versions = ", ".join(f"{name} {found}" for name, found in row["versions"].items())
        ready = Text("yes", style="green") if row["ready"] else Text("no", style="red")
        table.add_row(row["what"], ready, versions, row["remedy"] or "")
    conflict = _conflicting_runtimes()
    lines: list[Any] = [
        f"python {machine['python']}, {cpu.name} ({cpu.capability}), {machine['cores']} cores",
        f"GPU: {', '.join(gpus) if gpus else 'none found (nvidia-smi)'}",
        f"ONNX Runtime providers: {', '.join(providers) if providers else 'none'}",
        table,
        *([Text(conflict, style="yellow")] if conflict else []),
    ]
    emit({"machine": machine, "capabilities": capabilities, "conflict": conflict}, Group(*lines), as_json=as_json)


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


def _gpus() -> list[str]:
    """Ask nvidia-smi, which needs no CUDA package; an absent or failing driver means no GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (subprocess.SubprocessError, OSError):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()]
