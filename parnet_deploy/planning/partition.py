"""Name the tensors at which a ParNet's graph may be cut, and the partitions that are made of them.

The tensors of a ParNet, in the paper's terms (table A1), are `image`, `stem` (input of stream 1), `level2`.. (inputs
of the further streams), `stream1`.. (outputs of the streams), `fusion1` (StreamX-Downsampling), `fusion2`.. (outputs
of the Fusion blocks) and `logits`. Inside a Fusion block of the fused form lie its terms: what each of the two inputs
adds to the convolution (`/conv`) and to the gate (`/gate`), where `stream` is the block's own stream and `finer` is
the fusion of the finer streams before it.
"""

from __future__ import annotations

from collections.abc import Callable

from parnet_deploy.artifacts.schemas import NetworkConfig, Stage
from parnet_deploy.errors import ExportError

IMAGE = "image"
LOGITS = "logits"


def level_name(stream: int) -> str:
    """Return the name of stream `stream`'s input; streams count from 1, finest first."""
    return "stem" if stream == 1 else f"level{stream}"


def stream_name(stream: int) -> str:
    """Return the name of stream `stream`'s output."""
    return f"stream{stream}"


def fusion_name(stream: int) -> str:
    """Return the name of the block that joins stream `stream` to the finer ones (1: only downsamples it)."""
    return f"fusion{stream}"


def term_names(stream: int, side: str) -> tuple[str, str]:
    """Return the convolution and gate terms that one input (`stream` or `finer`) gives to Fusion block `stream`."""
    return f"fusion{stream}/{side}/conv", f"fusion{stream}/{side}/gate"


def boundary_names(num_streams: int, *, with_terms: bool) -> tuple[str, ...]:
    """Return every tensor between `image` and `logits` at which a graph with `num_streams` streams may be cut."""
    streams = range(1, num_streams + 1)
    names = [level_name(i) for i in streams] + [stream_name(i) for i in streams]
    if num_streams > 1:
        names += [fusion_name(i) for i in streams]
        if with_terms:
            names += [name for i in streams[1:] for side in ("stream", "finer") for name in term_names(i, side)]
    return tuple(names)


def _whole(_: int) -> tuple[Stage, ...]:
    return (Stage(name="whole", inputs=(IMAGE,), outputs=(LOGITS,)),)


def _stem_stages(num_streams: int) -> tuple[Stage, ...]:
    sources = (IMAGE, *(level_name(i) for i in range(1, num_streams)))
    targets = tuple(level_name(i) for i in range(1, num_streams + 1))
    return tuple(
        Stage(name=target, inputs=(source,), outputs=(target,)) for source, target in zip(sources, targets, strict=True)
    )


def _cut_streams(num_streams: int, source: Callable[[int], str]) -> tuple[Stage, ...]:
    outputs = tuple(stream_name(i) for i in range(1, num_streams + 1))
    cut = tuple(Stage(name=output, inputs=(source(i),), outputs=(output,)) for i, output in enumerate(outputs, start=1))
    return (*cut, Stage(name="join", inputs=outputs, outputs=(LOGITS,)))


def _cut_terms(num_streams: int, source: Callable[[int], str]) -> tuple[Stage, ...]:
    if num_streams == 1:
        return _cut_streams(num_streams, source)
    # Stream 1 goes through fusion1 and on to its term of Fusion 2; every other stream ends at its own term.
    outputs = (term_names(2, "finer"), *(term_names(i, "stream") for i in range(2, num_streams + 1)))
    cut = tuple(
        Stage(name=stream_name(i), inputs=(source(i),), outputs=terms) for i, terms in enumerate(outputs, start=1)
    )
    return (*cut, Stage(name="join", inputs=tuple(name for terms in outputs for name in terms), outputs=(LOGITS,)))


PARTITIONS: dict[str, Callable[[int], tuple[Stage, ...]]] = {
    # One stage.
    "whole": _whole,
    # The paper's cut: each stream with the stem it needs (stem pieces repeat), and the join.
    "streams": lambda n: _cut_streams(n, lambda _: IMAGE),
    # The same with the stem pieces as stages of their own, computed once.
    "shared-stem": lambda n: (*_stem_stages(n), *_cut_streams(n, level_name)),
    # Each stream computes its own term of the Fusion convolution, so that less crosses to the join.
    "terms": lambda n: _cut_terms(n, lambda _: IMAGE),
    "terms-shared-stem": lambda n: (*_stem_stages(n), *_cut_terms(n, level_name)),
}


def partition(network: NetworkConfig, name: str, *, form: str = "fused") -> tuple[Stage, ...]:
    """Return the stages of a named partition, in topological order.

    Raises:
        ExportError: an unknown name, or a cut at Fusion terms in a network that is not fused.
    """
    if name not in PARTITIONS:
        raise ExportError(f"no partition {name!r}", remedy=f"one of: {', '.join(PARTITIONS)}")
    if name.startswith("terms") and form != "fused":
        raise ExportError(
            f"partition {name!r} cuts inside the fused Fusion blocks, and this network is in training form",
            remedy="fuse the checkpoint first: parnet-deploy fuse CKPT -o OUT",
        )
    return PARTITIONS[name](network.num_streams)
