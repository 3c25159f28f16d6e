"""Real networks of 1 to 4 streams as TensorRT engines: every partition and precision, fixed and dynamic batch.

Built by TensorRT for RTX without a GPU: that a stage parses, has the manifest's tensors and layers, and builds to the
same bytes again. The engines' numbers need a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.artifacts.folders import open_bundle, open_plan
from parnet_deploy.artifacts.schemas import BatchRange, Plan
from parnet_deploy.engines import build_plan
from parnet_deploy.engines.options import BuildOptions, TensorRTOptions
from parnet_deploy.errors import EngineError
from parnet_deploy.export import ExportOptions, export_bundle
from parnet_deploy.models.checkpoints import save_checkpoint
from parnet_deploy.models.variants import VARIANTS
from parnet_deploy.planning.partition import PARTITIONS

pytest.importorskip("tensorrt_rtx", reason="not installed: pip install 'parnet-deploy[tensorrt-rtx]'")

NAMES = ("one_stream", "two_streams", "three_streams", "four_streams", "cifar")
DYNAMIC = BatchRange(min=1, opt=2, max=4)
AMPERE_TO_BLACKWELL = BuildOptions(
    devices=(0, 1, 2), tensorrt=TensorRTOptions(compute_capabilities=("80", "86", "89", "120"))
)


def check_engines(checkpoint: Path, tmp_path: Path, options: ExportOptions) -> None:
    """Export and build; check every stage's engine, and with a fixed batch that a rebuild gives the same bytes."""
    export_bundle(checkpoint, tmp_path / "bundle", options)
    bundle = open_bundle(tmp_path / "bundle").manifest

    def build(name: str) -> Plan:
        build_plan(tmp_path / "bundle", tmp_path / name, backend="tensorrt", options=AMPERE_TO_BLACKWELL)
        return open_plan(tmp_path / name).manifest

    first = build("first")
    assert [engine.stage for engine in first.engines] == [stage.name for stage in bundle.stages]
    for engine, stage in zip(first.engines, bundle.stages, strict=True):
        assert engine.layers["CONVOLUTION"] == stage.node_counts["Conv"]
        # Weights are in the engine as they are in the file.
        assert engine.file.size_bytes > 0.9 * stage.file.size_bytes
    if not bundle.batch.is_dynamic:
        assert build("second") == first


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("partition", ["whole", "streams"])
def test_networks_of_one_to_four_streams(
    checkpoint_pair: Callable[[str], Any], tmp_path: Path, name: str, precision: Any, partition: str
) -> None:
    check_engines(checkpoint_pair(name).fused, tmp_path, ExportOptions(partition, precision))


@pytest.mark.parametrize("partition", ["whole", "terms"])
def test_bfloat16(checkpoint_pair: Callable[[str], Any], tmp_path: Path, partition: str) -> None:
    check_engines(checkpoint_pair("three_streams").fused, tmp_path, ExportOptions(partition, "bf16"))
    turing = BuildOptions(tensorrt=TensorRTOptions(compute_capabilities=("75",)))
    with pytest.raises(EngineError, match=r"in bf16, which needs compute capability 8\.0; cuda:0 is .*7\.5") as refused:
        build_plan(tmp_path / "bundle", tmp_path / "turing", backend="tensorrt", options=turing)
    assert refused.value.remedy == "export with --precision fp16, or build for later GPUs only"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("partition", "precision"), [("whole", "fp32"), ("streams", "fp32"), ("streams", "fp16")])
def test_a_range_of_batches(
    checkpoint_pair: Callable[[str], Any], tmp_path: Path, name: str, partition: str, precision: Any
) -> None:
    check_engines(checkpoint_pair(name).fused, tmp_path, ExportOptions(partition, precision, DYNAMIC))


@pytest.mark.parametrize("partition", PARTITIONS)
def test_every_partition(checkpoint_pair: Callable[[str], Any], tmp_path: Path, partition: str) -> None:
    check_engines(checkpoint_pair("three_streams").fused, tmp_path, ExportOptions(partition, "fp16"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_training_form(checkpoint_pair: Callable[[str], Any], tmp_path: Path, precision: Any) -> None:
    check_engines(checkpoint_pair("three_streams").training, tmp_path, ExportOptions("streams", precision))


@pytest.mark.slow
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_variant(tmp_path: Path, variant: str) -> None:
    from parnet_deploy.fusion import fuse
    from parnet_deploy.models.initialization import create_random_network

    known = VARIANTS[variant]
    network = fuse(create_random_network(known.network, seed=1))
    checkpoint = tmp_path / "fused.safetensors"
    save_checkpoint(checkpoint, network, architecture=variant, preprocessing=known.preprocessing)
    for partition, precision in (("streams", "fp16"), ("whole", "fp32")):
        check_engines(checkpoint, tmp_path / partition, ExportOptions(partition, precision))
