"""ParNet: parallel streams at falling resolution, joined once at the end (section 3.3, table A1).

One topology serves both forms: the blocks are made by a family, training or fused. Sub-modules are named as the tensors
they make (`planning.partition`): `stem`, `level2`.., `stream1`.., `fusion1`.., `last`, `head`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError
from torch import Tensor, nn

from parnet_deploy.artifacts.limits import MAX_SIDE
from parnet_deploy.artifacts.schemas import NetworkConfig, Preprocessing
from parnet_deploy.errors import NetworkError
from parnet_deploy.models import blocks, fused
from parnet_deploy.planning import partition as names

Form = Literal["training", "fused"]


@dataclass(frozen=True)
class BlockFamily:
    """Constructors of the four kinds of block; `fusion` takes (in, out, activation, stride, finer_is_shuffled)."""

    repvgg_sse: Callable[..., nn.Module]
    downsampling: Callable[..., nn.Module]
    fusion: Callable[..., nn.Module]
    pointwise: Callable[..., nn.Module]


FAMILIES: dict[Form, BlockFamily] = {
    "training": BlockFamily(
        blocks.RepVGGSSEBlock,
        blocks.DownsamplingBlock,
        lambda i, o, act, stride, _shuffled: blocks.FusionBlock(i, o, act, stride),
        blocks.PointwiseBlock,
    ),
    "fused": BlockFamily(
        fused.FusedRepVGGSSEBlock,
        fused.FusedDownsamplingBlock,
        lambda i, o, act, stride, shuffled: fused.FusedFusionBlock(i, o, act, stride, split=shuffled),
        fused.FusedPointwiseBlock,
    ),
}


def check_resolution(cfg: NetworkConfig, height: int, width: int) -> None:
    """Raise `NetworkError` unless both sides, in pixels, are multiples of the network's reduction and not too large.

    On other sizes the training form's average pool drops a row that its 3x3 convolution still sees, so that fusion
    would not be exact.
    """
    step = cfg.reduction
    if height % step or width % step or not height or not width:
        nearest = [max(step, round(side / step) * step) for side in (height, width)]
        raise NetworkError(
            f"an input of {height}x{width} pixels, but both sides must be multiples of {step}",
            remedy=f"resize to {nearest[0]}x{nearest[1]}",
        )
    if max(height, width) > MAX_SIDE:
        raise NetworkError(f"an input of {height}x{width} pixels is too large", remedy=f"at most {MAX_SIDE} a side")


def preprocessing_at(cfg: NetworkConfig, preprocessing: Preprocessing, resolution: int | None) -> Preprocessing:
    """Return the preprocessing for a square input of `resolution` pixels; as it is where that is None.

    Raises:
        NetworkError: an input size that the network cannot take.
    """
    if resolution is not None:
        size = (preprocessing.input_size[0], resolution, resolution)
        preprocessing = preprocessing.model_copy(update={"input_size": size})
    check_resolution(cfg, *preprocessing.input_size[1:])
    return preprocessing


def _replace_fields(cfg: NetworkConfig, overrides: dict[str, Any]) -> NetworkConfig:
    try:
        return NetworkConfig.model_validate({**cfg.model_dump(), **overrides})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the network"
        raise NetworkError(f"{field}: {first['msg']}", remedy="see the fields of NetworkConfig") from error


class ClassifierHead(nn.Module):
    """Global average pool, dropout and the linear layer at depth 12."""

    def __init__(self, in_features: int, num_classes: int, drop_rate: float) -> None:
        super().__init__()
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(in_features, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Map `[N, C, H, W]` to `[N, classes]`, or to `[N, C]` with `pre_logits`."""
        x = self.drop(x.mean((2, 3)))
        return x if pre_logits else self.fc(x)


class ParNet(nn.Module):
    """A ParNet for images `[N, in_chans, H, W]` whose sides are multiples of `cfg.reduction`."""

    def __init__(self, cfg: NetworkConfig, form: Form = "training", **overrides: Any) -> None:
        """Build the network; `overrides` are fields of `cfg` to replace, as `timm.create_model` passes them."""
        super().__init__()
        if overrides.pop("global_pool", "avg") != "avg":
            raise NetworkError("ParNet pools by average only", remedy="leave global_pool at 'avg'")
        no_head = overrides.get("num_classes") == 0
        if no_head:
            overrides.pop("num_classes")
        self.cfg = cfg = _replace_fields(cfg, overrides)
        self.form = form
        self.num_classes = 0 if no_head else cfg.num_classes
        self.num_features = self.head_hidden_size = cfg.last_planes
        family = FAMILIES[form]
        act = cfg.activation
        planes = cfg.planes

        self.stem = nn.Sequential(*self._stem_blocks(family))
        for i in range(2, cfg.num_streams + 1):
            self.add_module(names.level_name(i), family.downsampling(planes[i - 2], planes[i - 1], act))
        for i, (width, depth) in enumerate(zip(planes, cfg.num_blocks, strict=True), start=1):
            stream = nn.Sequential(*(family.repvgg_sse(width, act) for _ in range(depth)))
            self.add_module(names.stream_name(i), stream)
        if cfg.num_streams > 1:
            self.add_module(names.fusion_name(1), family.downsampling(planes[0], planes[1], act))
        for i in range(2, cfg.num_streams + 1):
            # Fusion i halves the resolution for the next stream; the last one keeps it.
            out, stride = (planes[i], 2) if i < cfg.num_streams else (planes[i - 1], 1)
            self.add_module(names.fusion_name(i), family.fusion(planes[i - 1], out, act, stride, i > 2))
        make_last = family.downsampling if cfg.last == "downsampling" else family.pointwise
        self.last = make_last(planes[-1], cfg.last_planes, act)
        self.head = ClassifierHead(cfg.last_planes, self.num_classes, cfg.drop_rate)
        self.feature_info = self._feature_info()

    def _stem_blocks(self, family: BlockFamily) -> list[nn.Module]:
        cfg, made, width = self.cfg, [], self.cfg.in_chans
        for out in cfg.stem:
            if cfg.stem_stride == 1 and out == width:
                made.append(family.repvgg_sse(out, cfg.activation))
            else:
                made.append(family.downsampling(width, out, cfg.activation, cfg.stem_stride))
            width = out
        return made

    def _feature_info(self) -> list[dict[str, Any]]:
        """Describe the pyramid for timm: each stream's input level, then the joined features and the last block."""
        cfg = self.cfg
        first = cfg.stem_stride ** len(cfg.stem)
        info = [
            {"num_chs": width, "reduction": first * 2**i, "module": names.stream_name(i + 1)}
            for i, width in enumerate(cfg.planes)
        ]
        if cfg.num_streams > 1:  # The deepest level is best represented by all streams joined.
            info[-1]["module"] = names.fusion_name(cfg.num_streams)
        info.append({"num_chs": cfg.last_planes, "reduction": cfg.reduction, "module": "last"})
        return info

    def check_size(self, x: Tensor) -> None:
        """Raise `NetworkError` unless `x` is a batch of images that the training form can take."""
        if x.ndim != 4 or x.shape[1] != self.cfg.in_chans:
            raise NetworkError(
                f"input of shape {list(x.shape)}, but it must be [N, {self.cfg.in_chans}, H, W]",
                remedy=f"pass a batch of images of {self.cfg.in_chans} channels; x[None] makes a batch of one image",
            )
        check_resolution(self.cfg, x.shape[2], x.shape[3])

    def forward_boundaries(self, x: Tensor) -> dict[str, Tensor]:
        """Return every tensor that a partition may cut at, by name, and `last`, the features before the head."""
        self.check_size(x)
        tensors: dict[str, Tensor] = {}
        streams = range(1, self.cfg.num_streams + 1)
        level = x
        for i in streams:
            tensors[names.level_name(i)] = level = self._block(names.level_name(i))(level)
        for i in streams:
            tensors[names.stream_name(i)] = self._block(names.stream_name(i))(tensors[names.level_name(i)])
        joined = tensors[names.stream_name(1)]
        if len(streams) > 1:
            tensors[names.fusion_name(1)] = joined = self._block(names.fusion_name(1))(joined)
        for i in streams[1:]:
            tensors |= self._fuse(i, tensors[names.stream_name(i)], joined)
            joined = tensors[names.fusion_name(i)]
        tensors["last"] = self.last(joined)
        return tensors

    def _fuse(self, i: int, stream: Tensor, finer: Tensor) -> dict[str, Tensor]:
        block = self._block(names.fusion_name(i))
        if not isinstance(block, fused.FusedFusionBlock):
            return {names.fusion_name(i): block(stream, finer)}
        terms = block.stream(stream), block.finer(finer)
        made = dict(zip(names.term_names(i, "stream") + names.term_names(i, "finer"), terms[0] + terms[1], strict=True))
        return made | {names.fusion_name(i): block.join((stream.shape[2], stream.shape[3]), *terms)}

    def _block(self, name: str) -> nn.Module:
        return self._modules[name]  # type: ignore[return-value]

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last block's output `[N, last_planes, H / reduction, W / reduction]`."""
        return self.forward_boundaries(x)["last"]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits for features, or the pooled features with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `[N, classes]`."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,  # noqa: ARG002 (timm's signature; there is no final norm)
        stop_early: bool = False,  # noqa: ARG002
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the feature pyramid, and the final features unless `intermediates_only` (timm's interface)."""
        if output_fmt != "NCHW":
            raise NetworkError(f"output format {output_fmt!r}", remedy="use NCHW")
        count = len(self.feature_info)
        if isinstance(indices, int):
            indices = range(-indices, 0)
        wanted = range(count) if indices is None else indices
        if any(not -count <= index < count for index in wanted):
            raise NetworkError(f"features {list(wanted)} of {count}", remedy=f"use indices from 0 to {count - 1}")
        tensors = self.forward_boundaries(x)
        features = [tensors[self.feature_info[index]["module"]] for index in wanted]
        return features if intermediates_only else (tensors["last"], features)

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer by a new one for `num_classes`."""
        if global_pool not in (None, "avg"):
            raise NetworkError("ParNet pools by average only", remedy="leave global_pool at 'avg'")
        self.num_classes = num_classes
        if num_classes:
            self.cfg = self.cfg.model_copy(update={"num_classes": num_classes})
        reference = next(self.last.parameters())
        head = ClassifierHead(self.num_features, num_classes, self.cfg.drop_rate).train(self.training)
        self.head = head.to(device=reference.device, dtype=reference.dtype)
