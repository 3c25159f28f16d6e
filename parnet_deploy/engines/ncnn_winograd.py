"""Choose between Winograd's F(4,3) and F(2,3) for the convolutions of an ncnn model, by what their weights take.

ncnn keeps weights transformed: 36 numbers for 9 with F(4,3), 16 with F(2,3) (Lavin and Gray, arXiv 1509.09308). An
output pixel then costs 2.25 multiplications instead of 9, or 4. What F(4,3) gains over F(2,3) grows with the pixels
that share the weights, and what it takes does not; maps of 14x14 are not filled by its tiles of 4x4 either.

Which of the two is used cannot be said in a model's file; but ncnn transforms weights for the map that a layer's shape
hint tells it of, prefers F(2,3) on small maps, and at run time takes the weights that there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Transformed weights in all, at most, over those of the model, where nothing else is asked for. A session of ParNet-L
# (211 MiB) then peaks at 504 MiB, at 320 px at 517, and takes 3 to 6% longer, at 320 px 14%, than one with F(4,3)
# everywhere, which peaks at 713 there. The rest is the process, the layer that is being transformed, and blobs.
MEMORY_FACTOR = 1.65

_F43, _F23 = 36 / 9, 16 / 9

# A map of 6x6, 8x8 with its border: where ncnn prefers F(2,3) for any width that these networks have.
F23_HINT_SIZE = 6


@dataclass(frozen=True)
class WinogradLayer:
    """A 3x3 convolution of stride 1; `pixels` are those of its output."""

    name: str
    weights_bytes: int
    pixels: int


def layers_with_f43(layers: Sequence[WinogradLayer], model_bytes: int, memory_factor: float) -> frozenset[str]:
    """Return the layers that use F(4,3): those with the largest maps first, as long as their weights fit in.

    All weights of the model, `model_bytes`, are then at most `memory_factor` times as large once they are transformed;
    or as little as F(2,3) everywhere makes them, where that is more.
    """
    room = (memory_factor - 1) * model_bytes - sum((_F23 - 1) * layer.weights_bytes for layer in layers)
    chosen = set()
    for layer in sorted(layers, key=lambda layer: -layer.pixels):
        extra = (_F43 - _F23) * layer.weights_bytes
        if extra <= room:
            room -= extra
            chosen.add(layer.name)
    return frozenset(chosen)
