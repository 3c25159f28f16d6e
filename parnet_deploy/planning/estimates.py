"""Estimate how long stages take where nothing was measured: a roofline of a named device.

A stage takes the longer of its arithmetic at the device's peak times an efficiency, and of its bytes at the memory's
bandwidth (Williams, Waterman and Patterson 2009). Launches, and what is idle inside a small kernel, are in the
efficiency, which is one number for all stages: an estimate, never a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

from parnet_deploy.artifacts.schemas import Bundle, BundleStage, Precision
from parnet_deploy.errors import ArtifactError


@dataclass(frozen=True)
class DeviceProfile:
    """A device at one precision: peak of dense arithmetic, share of it that is reached, and memory bandwidth.

    `basis` says in words where the efficiency comes from.
    """

    name: str
    precision: Precision
    peak_tflops: float
    memory_gb_s: float
    efficiency: float
    basis: str

    def time_ms(self, gflop: float, size_bytes: int) -> float:
        """Return the roofline's milliseconds for so much arithmetic and so many bytes of memory traffic."""
        return max(gflop / (self.peak_tflops * self.efficiency), size_bytes / self.memory_gb_s / 1e6)


def calibrate_efficiency(gflop: float, measured_ms: float, peak_tflops: float) -> float:
    """Return the share of the peak that a measured time of a whole network amounts to."""
    return gflop / measured_ms / peak_tflops


# Table 3 of the paper: ParNet-L fused on one RTX 3090 takes 6.50 ms. Its graph has 26.65 GFLOP (table 2 says 26.7).
_PAPER_L_GFLOP, _PAPER_L_MS = 26.65, 6.50

# NVIDIA's Ampere GA102 white paper: GeForce RTX 3090, 35.6 TFLOP/s of float32, 936 GB/s.
_RTX3090_TFLOPS, _RTX3090_GB_S = 35.6, 936.0

# NVIDIA H100 datasheet, SXM: 3.35 TB/s, and on tensor cores, dense, 989 TFLOP/s of float16 and of bfloat16, 1,979 TOP/s
# of int8 and TFLOP/s of float8.
_H100_GB_S = 3350.0
_H100_TFLOPS: dict[Precision, float] = {"fp16": 989.0, "bf16": 989.0, "int8": 1979.0, "fp8": 1979.0}

PROFILES: dict[str, DeviceProfile] = {
    profile.name: profile
    for profile in (
        DeviceProfile(
            name="rtx3090",
            precision="fp32",
            peak_tflops=_RTX3090_TFLOPS,
            memory_gb_s=_RTX3090_GB_S,
            efficiency=calibrate_efficiency(_PAPER_L_GFLOP, _PAPER_L_MS, _RTX3090_TFLOPS),
            basis="calibrated on the paper's 6.50 ms of ParNet-L on one GPU, batch 1, PyTorch 1.8",
        ),
        *(
            DeviceProfile(
                name="h100" if precision == "fp16" else f"h100-{precision}",
                precision=precision,
                peak_tflops=peak,
                memory_gb_s=_H100_GB_S,
                efficiency=1.0,
                basis="not calibrated: the peak itself, so that times are lower bounds",
            )
            for precision, peak in _H100_TFLOPS.items()
        ),
    )
}


def estimate_durations(bundle: Bundle, profile: DeviceProfile, *, bundle_name: str) -> dict[str, float]:
    """Return each stage's estimated milliseconds for a batch of the bundle's `opt` size.

    Memory traffic is the stage's file (its weights) once, and its inputs and outputs once for each sample.

    Raises:
        ArtifactError: the bundle is of another precision than the profile, or does not say its operations.
    """
    if bundle.precision != profile.precision:
        raise ArtifactError(
            f"device profile {profile.name} is for {profile.precision}, and this bundle is {bundle.precision}",
            where=bundle_name,
            remedy="choose a --device-profile of that precision, make a bundle of the profile's, or pass --times",
        )
    return {stage.name: _estimate_stage(bundle, stage, profile, bundle_name) for stage in bundle.stages}


def _estimate_stage(bundle: Bundle, stage: BundleStage, profile: DeviceProfile, bundle_name: str) -> float:
    if stage.gflop is None:
        raise ArtifactError(
            f"the bundle does not say how many operations stage {stage.name} takes",
            where=bundle_name,
            remedy="export it again with this version, or pass --times",
        )
    batch = bundle.batch.opt
    boundary_bytes = sum(bundle.tensors[name].size_bytes for name in (*stage.inputs, *stage.outputs))
    return profile.time_ms(stage.gflop * batch, stage.file.size_bytes + boundary_bytes * batch)
