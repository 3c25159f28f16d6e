"""What is measured, as data: networks, sizes and batches, and who takes part in each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["ours", "peer", "reference", "peak"]

PARNETS = ("parnet_l", "parnet_s", "parnet_m", "parnet_xl")
RESNETS = ("resnet34", "resnet50")


@dataclass(frozen=True)
class Case:
    """A network on square images of some pixels, some at a time."""

    network: str
    pixels: int
    batch: int

    @property
    def name(self) -> str:
        """Return a name that is also a folder's."""
        return f"{self.network}-{self.pixels}px-b{self.batch}"

    @property
    def is_parnet(self) -> bool:
        """Whether it is one of our networks, and not one to compare with."""
        return self.network.startswith("parnet")


@dataclass(frozen=True)
class Contender:
    """Somebody who answers images: a module of `benchmarks.contenders` with its options.

    `precision` is what it computes in. A `reference` shows what a choice costs and is no rival: unfused networks, and
    what computes in fewer bits.
    """

    name: str
    adapter: str
    role: Role
    options: Mapping[str, str] = field(default_factory=dict)
    precision: str = "fp32"

    @property
    def slug(self) -> str:
        """Return the name as a folder's."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name.lower())


@dataclass(frozen=True)
class Effort:
    """How long each run of a contender takes, and how often its turn comes.

    A run ends when it has both the least time and the least requests, or after the most time with three requests.
    """

    rounds: int
    least_s: float
    least_requests: int
    most_s: float


PEAK = Contender("matrix product", "matmul", "peak")
CUDA_PEAK = Contender("CUDA matrix product, fp16", "cuda_matmul", "peak", precision="fp16")

_PEERS = (
    Contender("eager, unfused", "eager", "reference", {"form": "unfused"}),
    Contender("eager, unfused, channels_last", "eager", "reference", {"form": "unfused", "layout": "channels_last"}),
    Contender("eager, fused", "eager", "peer", {"form": "fused"}),
    Contender("eager, fused, channels_last", "eager", "peer", {"form": "fused", "layout": "channels_last"}),
    Contender("torch.compile, fused", "eager", "peer", {"form": "fused", "compile": "default"}),
    Contender("ONNX Runtime, plain export, unfused", "onnxruntime_plain", "reference", {"form": "unfused"}),
    Contender("ONNX Runtime, plain export, fused", "onnxruntime_plain", "peer", {"form": "fused"}),
    Contender("OpenVINO, plain export, fused", "openvino_plain", "peer", {"form": "fused", "precision": "f32"}),
    Contender(
        "OpenVINO, plain export, fused, its default",
        "openvino_plain",
        "reference",
        {"form": "fused", "precision": "default"},
        precision="the plugin's choice",
    ),
    Contender("ncnn by pnnx, fused", "ncnn_plain", "peer", {"form": "fused", "precision": "fp32"}),
    Contender(
        "ncnn by pnnx, fused, its default",
        "ncnn_plain",
        "reference",
        {"form": "fused", "precision": "default"},
        precision="fp16 weights",
    ),
)

_OURS = (
    *(
        Contender(
            f"parnet-deploy, {backend}, {'whole' if partition == 'whole' else 'split'}",
            "plan",
            "ours",
            {"backend": backend, "partition": partition},
        )
        for backend in ("onnxruntime", "openvino", "ncnn")
        for partition in ("whole", "streams")
    ),
    Contender(
        "parnet-deploy, ncnn, whole, more memory",
        "plan",
        "ours",
        {"backend": "ncnn", "partition": "whole", "memory_factor": "4"},
    ),
)

_FOR_RESNETS = (
    Contender("eager", "eager", "peer"),
    Contender("ONNX Runtime, plain export", "onnxruntime_plain", "peer"),
    Contender("OpenVINO, plain export", "openvino_plain", "peer", {"precision": "f32"}),
    Contender(
        "OpenVINO, plain export, its default",
        "openvino_plain",
        "reference",
        {"precision": "default"},
        precision="the plugin's choice",
    ),
    Contender("ncnn by pnnx", "ncnn_plain", "peer", {"precision": "fp32"}),
)

BASELINE = "ONNX Runtime, plain export, fused"
CUDA_BASELINE = "CUDA eager, fused, channels_last, graph"

_CUDA_FORMS = {"form": "fused", "precision": "fp16"}
_CUDA = (
    Contender(
        "CUDA eager, unfused, no graph",
        "cuda_torch",
        "reference",
        {"form": "unfused", "precision": "fp16", "graphs": "no graph"},
        precision="fp16",
    ),
    *(
        Contender(
            f"CUDA eager, fused{layout and ', '}{layout}, {graphs}",
            "cuda_torch",
            "peer",
            {
                **_CUDA_FORMS,
                "layout": layout,
                "graphs": graphs,
            },
            precision="fp16",
        )
        for layout in ("", "channels_last")
        for graphs in ("no graph", "graph")
    ),
    Contender(
        "CUDA torch.compile max-autotune, fused",
        "cuda_torch",
        "peer",
        {
            **_CUDA_FORMS,
            "layout": "channels_last",
            "compile": "max-autotune-no-cudagraphs",
            "graphs": "no graph",
        },
        precision="fp16",
    ),
    Contender(
        "CUDA torch.compile max-autotune, fused, graph",
        "cuda_torch",
        "peer",
        {
            **_CUDA_FORMS,
            "layout": "channels_last",
            "compile": "max-autotune-no-cudagraphs",
            "graphs": "graph",
        },
        precision="fp16",
    ),
    *(
        Contender(
            f"parnet-deploy, {backend}, {streams}, {graphs}",
            "cuda_plan",
            "ours",
            {
                "backend": backend,
                "streams": streams,
                "graphs": graphs,
                "precision": "fp16",
            },
            precision="fp16",
        )
        for backend in ("tensorrt", "onnxruntime-cuda", "torch")
        for streams in ("whole", "one stream", "three streams")
        for graphs in ("no graph", "graph")
    ),
)


# `full`: everything, a night. `quick`: what decides, in minutes. `tiny`: whether all of it works, on a small network.
PRESETS = ("full", "quick", "tiny")
_ON_CUDA = Effort(5, 1.0, 50, 20.0)

_QUICK = frozenset(
    {
        "eager, unfused",
        BASELINE,
        "parnet-deploy, onnxruntime, whole",
        "parnet-deploy, onnxruntime, split",
        "parnet-deploy, openvino, whole",
        "parnet-deploy, ncnn, whole",
    }
)


def contenders_for(case: Case, device: str, preset: str = "full") -> tuple[Contender, ...]:
    """Return who takes part, in the order of their turns.

    The machine's peak is one of them. On the processor, references are measured one image at a time only.
    """
    if device == "cuda":
        return (CUDA_PEAK, *_CUDA) if case.is_parnet else ()
    others = (*_PEERS, *_OURS) if case.is_parnet else _FOR_RESNETS
    if preset == "quick":
        return (PEAK, *(contender for contender in others if contender.name in _QUICK))
    return (PEAK, *(contender for contender in others if case.batch == 1 or contender.role != "reference"))


def cases_of(
    preset: str, networks: tuple[str, ...] | None = None, device: str = "cpu"
) -> tuple[tuple[Case, Effort], ...]:
    """Return the cases of a preset with their effort, the most telling first; `networks` leaves out others.

    On a GPU a request takes a millisecond or so, and a run a second.

    Raises:
        ValueError: no preset of that name.
    """
    found: tuple[tuple[Case, Effort], ...]
    if preset == "tiny":
        found = ((Case("parnet_pico", 64, 1), Effort(2, 0.3, 5, 5.0)),)
    elif preset == "quick":
        found = tuple((Case(network, 224, 1), Effort(5, 1.5, 8, 20.0)) for network in ("parnet_l", "parnet_s"))
    elif preset == "full":
        found = _full_cases()
    else:
        raise ValueError(f"no preset {preset!r}")
    chosen = tuple((case, effort) for case, effort in found if networks is None or case.network in networks)
    return tuple((case, _ON_CUDA) for case, _ in chosen) if device == "cuda" else chosen


def _full_cases() -> tuple[tuple[Case, Effort], ...]:
    headline, rest = Effort(5, 4.0, 20, 60.0), Effort(3, 3.0, 5, 60.0)
    order = ((224, 1), (320, 1), (224, 8), (224, 32), (320, 8), (320, 32))
    return tuple(
        (Case(network, pixels, batch), headline if (pixels, batch) == (224, 1) else rest)
        for pixels, batch in order
        for network in (*PARNETS, *RESNETS)
    )
