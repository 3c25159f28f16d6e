"""Options of a build: parsing, defaults, and which capability covers which."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.engines import BACKEND_NAMES, get_backend
from parnet_deploy.engines.gpus import covers
from parnet_deploy.engines.options import (
    BuildOptions,
    TensorRTOptions,
    check_options,
    parse_compute_capabilities,
    parse_devices,
)
from parnet_deploy.engines.tensorrt_flavour import load_tensorrt
from parnet_deploy.errors import EngineError, MissingDependencyError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("86", ("86",)),
        ("120,8.6, sm89", ("86", "89", "120")),
        ("86,8.6,SM86", ("86",)),
    ],
)
def test_compute_capabilities_are_sorted_and_each_once(text: str, expected: tuple[str, ...]) -> None:
    assert parse_compute_capabilities(text) == expected


@pytest.mark.parametrize("text", ["", "86,", "ampere", "8", "8600", "-86", "8\u0666"])
def test_what_is_no_compute_capability_is_refused(text: str) -> None:
    with pytest.raises(EngineError, match="no list of compute capabilities"):
        parse_compute_capabilities(text)


def test_devices() -> None:
    assert parse_devices("2, 0,1") == (2, 0, 1)
    for text in ("", "0,", "cuda:0", "-1", "0.5"):
        with pytest.raises(EngineError, match="no list of devices"):
            parse_devices(text)
    for devices in ((), (1, 1)):
        with pytest.raises(EngineError, match="not a choice"):
            BuildOptions(devices=devices)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(EngineError, match="optimisation level 6"):
        TensorRTOptions(optimization_level=6)
    with pytest.raises(EngineError, match="0 bytes"):
        TensorRTOptions(workspace_bytes=0)
    for factor in (0.99, 4.01, float("nan")):
        with pytest.raises(EngineError, match=f"no memory factor {factor}"):
            BuildOptions(memory_factor=factor)


def test_the_record_holds_what_an_engine_depends_on(tmp_path: Path) -> None:
    assert TensorRTOptions(flavour="rtx", cache_dir=tmp_path).as_record() == {}
    assert BuildOptions().as_record() == {}
    assert BuildOptions(tf32=True, memory_factor=4.0).as_record() == {"tf32": True, "memory_factor": 4.0}
    changed = TensorRTOptions(compute_capabilities=("86", "120"), refit=True, optimization_level=0)
    assert changed.as_record() == {"compute_capabilities": "86,120", "refit": True, "optimization_level": 0}


_GPUS = {"tensorrt", "onnxruntime-cuda", "torch"}


@pytest.mark.parametrize(
    ("options", "title", "takers"),
    [
        (BuildOptions(devices=(0,)), "devices", _GPUS),
        (BuildOptions(tf32=True), "TF32", _GPUS),
        (BuildOptions(memory_factor=2.0), "memory factor", {"ncnn"}),
        (BuildOptions(tensorrt=TensorRTOptions(detailed_profiling=True)), "TensorRT options", {"tensorrt"}),
        (BuildOptions(placement={}), "placement", set(BACKEND_NAMES)),
    ],
)
def test_an_option_is_for_some_backends(options: BuildOptions, title: str, takers: set[str]) -> None:
    for backend in BACKEND_NAMES:
        if backend in takers:
            check_options(options, backend)
        else:
            with pytest.raises(EngineError, match=f"backend '{backend}' takes no {title}"):
                check_options(options, backend)
            if backend in ("null", "onnxruntime"):
                with pytest.raises(EngineError, match=f"backend '{backend}' takes no {title}"):
                    get_backend(backend, options)


@given(built=st.integers(75, 121), found=st.integers(75, 121))
def test_a_capability_covers_itself_and_with_a_plus_all_later_ones(built: int, found: int) -> None:
    assert covers(f"sm{built}", f"sm{found}") == (built == found)
    assert covers(f"sm70 sm{built}", f"sm{found}") == (built == found)
    assert covers(f"sm{built}+", f"sm{found}") == (found >= built)
    assert not covers("x86_64 avx2", f"sm{found}")


def test_the_full_tensorrt_goes_first_where_both_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.13.3.9"))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__="1.7.1.116"))
    assert load_tensorrt(TensorRTOptions()).version == "10.13.3.9"
    assert load_tensorrt(TensorRTOptions(flavour="rtx")).version == "rtx 1.7.1.116"
    assert load_tensorrt(TensorRTOptions(compute_capabilities=("86",))).version == "rtx 1.7.1.116"
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert load_tensorrt(TensorRTOptions()).flavour == "rtx"
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1 is too old"):
        load_tensorrt(TensorRTOptions())


def test_a_missing_tensorrt_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match="no TensorRT and no TensorRT for RTX here") as caught:
        get_backend("tensorrt")
    assert caught.value.remedy == "pip install 'parnet-deploy[tensorrt]' or pip install 'parnet-deploy[tensorrt-rtx]'"
    with pytest.raises(MissingDependencyError) as caught:
        load_tensorrt(TensorRTOptions(compute_capabilities=("86",)))
    assert caught.value.remedy == "pip install 'parnet-deploy[tensorrt-rtx]'"
