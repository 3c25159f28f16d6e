"""Every TensorRT attribute and signature in use, against the real bindings of TensorRT 10 and 11 and of RTX.

The bindings of the full TensorRT are wheels of their own (`make trt-bindings`). Its libraries need a GPU host; stub
libraries with the few functions that the bindings link let them be imported anywhere. A builder is then null, so what
lies before it is run and what follows is checked by signature.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from parnet_deploy.engines import tensorrt_build, tensorrt_errors, tensorrt_flavour, tensorrt_run

REPOSITORY = Path(__file__).parents[2]
CHECK = Path(__file__).with_name("tensorrt_api_check.py")
SOURCES = [Path(module.__file__ or "") for module in (tensorrt_build, tensorrt_flavour, tensorrt_errors, tensorrt_run)]
# What is reached only after the flavour was found to be RTX.
RTX_ONLY = {
    "ComputeCapability is missing",
    "IBuilderConfig.num_compute_capabilities is missing",
    "IBuilderConfig.set_compute_capability is missing",
    "DynamicShapesKernelSpecializationStrategy is missing",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy is missing",
    "IRuntimeConfig.create_runtime_cache is missing",
    "IRuntimeConfig.set_runtime_cache is missing",
}
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
# A driver with GPUs of compute capability 8.6, 8.6 and 9.0.
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = 3; return 0; }
int cuDeviceGetName(char *name, int length, int device) {
    strncpy(name, device == 2 ? "NVIDIA H200" : "NVIDIA GeForce RTX 3090", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 1ul << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device == 2 ? 9 : 8) : (device == 2 ? 0 : 6); return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)1; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxPushCurrent_v2(void *context) { return 0; }
int cuCtxPopCurrent_v2(void **context) { return 0; }
"""
IMPORT_AS_TENSORRT = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"
BUILD = """
import sys
from pathlib import Path
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions
from parnet_deploy.errors import EngineError

devices = tuple(int(device) for device in sys.argv[2].split(","))
options = BuildOptions(devices=devices, tensorrt=TensorRTOptions(flavour="tensorrt"))
try:
    build_plan(Path(sys.argv[1]), Path("plan"), backend="tensorrt", options=options)
except EngineError as error:
    sys.stdout.write(str(error))
"""


def compile_library(path: Path, source: str) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("gcc is not installed")
    command = [compiler, "-w", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)


@pytest.fixture(params=["10", "11"])
def bindings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment in which `tensorrt` is the real bindings over stub libraries, and a driver has three GPUs."""
    major: str = request.param
    wheels = Path(os.environ.get("TENSORRT_BINDINGS", REPOSITORY / ".cache" / "tensorrt-bindings")) / major
    if not (wheels / "tensorrt_bindings").is_dir():
        pytest.skip(f"no bindings of TensorRT {major} in {wheels}: make trt-bindings")
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    stubs = "".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS)
    for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        compile_library(libraries / f"lib{library}.so.{major}", stubs)
    compile_library(libraries / "libcuda.so.1", DRIVER)
    package = tmp_path / "packages" / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(IMPORT_AS_TENSORRT)
    path = os.pathsep.join([str(wheels), str(package.parent), str(REPOSITORY)])
    return {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": path}


def run(environment: dict[str, str] | None, folder: Path, *arguments: str | Path) -> str:
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(
    environment: dict[str, str] | None, folder: Path, module: str, sources: list[Path]
) -> tuple[set[str], set[str]]:
    found = json.loads(run(environment, folder, CHECK, module, *sources))
    return set(found["checked"]), set(found["problems"])


def test_every_use_fits_the_bindings_of_10_and_11(bindings: dict[str, str], tmp_path: Path) -> None:
    checked, problems = check(bindings, tmp_path, "tensorrt_bindings", SOURCES)
    assert problems == RTX_ONLY
    assert {
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "parse_from_file(1)",
        "IOptimizationProfile.set_shape",
        "set_shape(4)",
        "set_timing_cache(2)",
        "ITimingCache.serialize",
        "build_serialized_network(2)",
        "LayerType.name",
        "deserialize_cuda_engine(1)",
        "IExecutionContext.execute_async_v3",
        "set_tensor_address(2)",
        "set_input_shape(2)",
        "set_optimization_profile_async(2)",
        "TensorIOMode.INPUT",
    } <= checked


def test_every_use_fits_tensorrt_for_rtx(tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("TensorRT for RTX is not installed")
    checked, problems = check(None, tmp_path, "tensorrt_rtx", SOURCES)
    assert problems == set()
    assert {"set_compute_capability(2)", "create_execution_context(1)", "set_runtime_cache(1)"} <= checked


def test_members_that_are_looked_up_by_name_exist(bindings: dict[str, str], tmp_path: Path) -> None:
    script = """
import json, sys, tensorrt
names = json.loads(sys.argv[1])
sys.stdout.write(str([n for k in names for n in names[k] if n not in getattr(tensorrt, k).__members__]))
"""
    names = {
        "HardwareCompatibilityLevel": list(tensorrt_build._HARDWARE_COMPATIBILITY.values()),
        "DataType": list(tensorrt_build.DTYPES),
    }
    assert run(bindings, tmp_path, "-c", script, json.dumps(names)) == "[]"


def names_of_the_stand_in() -> dict[str, list[str]]:
    """The methods, properties and members of each class that stands in for one of TensorRT's."""
    path = REPOSITORY / "tests" / "cuda_sim" / "host_tensorrt" / "tensorrt" / "__init__.py"
    names: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            members = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
            if any(isinstance(base, ast.Name) and base.id == "IntEnum" for base in node.bases):
                members += [target.id for item in node.body for target in getattr(item, "targets", [])]
            names[node.name] = [name for name in members if not name.startswith("_")]
    return names


def test_the_stand_in_has_no_names_of_its_own(bindings: dict[str, str], tmp_path: Path) -> None:
    """What tests on the driver in host memory call TensorRT has nothing that the real one lacks."""
    names = names_of_the_stand_in()
    assert {"execute_async_v3", "set_tensor_address"} <= set(names["IExecutionContext"])
    assert "INPUT" in names["TensorIOMode"]
    script = """
import json, sys, tensorrt
names = json.loads(sys.argv[1])
sys.stdout.write(str([f"{k}.{n}" for k in names for n in names[k] if not hasattr(getattr(tensorrt, k, None), n)]))
"""
    assert run(bindings, tmp_path, "-c", script, json.dumps(names)) == "[]"


@pytest.mark.parametrize(
    ("text", "replacement", "problem"),
    [
        (
            "config.set_flag(trt.BuilderFlag.REFIT)",
            "config.set_flag(trt.BuilderFlag.FP16X)",
            "BuilderFlag.FP16X is missing",
        ),
        ("profile.set_shape(name, low, opt, high)", "profile.set_shape(name, low, high)", "set_shape does not take 3"),
        ("parser.parse_from_file(", "parser.parse_file(", "OnnxParser.parse_file is missing"),
        ("config.set_timing_cache(timing_cache, False)", "config.set_timing_cache(timing_cache)", "does not take 1"),
        ("config.builder_optimization_level =", "config.num_optimization_profiles =", "cannot be set"),
        ("network.get_layer(index).type.name", "network.get_layer(index).kind.name", "ILayer.kind is missing"),
        ("builder.create_network(", "builder.create_network(flag=", "create_network does not take 0"),
    ],
)
def test_the_check_sees_a_wrong_name_or_call(
    bindings: dict[str, str], tmp_path: Path, text: str, replacement: str, problem: str
) -> None:
    source = SOURCES[0].read_text()
    assert text in source
    changed = tmp_path / "changed.py"
    changed.write_text(source.replace(text, replacement))
    _, problems = check(bindings, tmp_path, "tensorrt_bindings", [changed])
    assert [found for found in problems - RTX_ONLY if problem in found]


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("0,1", "TensorRT cannot make a builder for stage '"),
        ("1,2", "GPUs of different compute capability in one process: cuda:1 NVIDIA GeForce RTX 3090"),
        ("0,3", "no device cuda:3"),
    ],
)
def test_the_full_tensorrt_builds_up_to_its_libraries(
    bindings: dict[str, str], make_bundle: Callable[..., Path], tmp_path: Path, devices: str, message: str
) -> None:
    assert message in run(bindings, tmp_path, "-c", BUILD, make_bundle("branches"), devices)
    assert not (tmp_path / "plan").exists()
