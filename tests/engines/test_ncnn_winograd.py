"""Which convolutions get Winograd's F(4,3): within the memory, those whose weights many pixels share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from parnet_deploy.engines.ncnn_winograd import MEMORY_FACTOR, WinogradLayer, layers_with_f43

MIB = 2**20


def layer(name: str, width: int, size: int) -> WinogradLayer:
    return WinogradLayer(name, width * width * 9 * 4, size * size)


@st.composite
def models(draw: st.DrawFn) -> tuple[list[WinogradLayer], int]:
    sizes = draw(st.lists(st.tuples(st.integers(1, 100), st.integers(1, 5000)), max_size=12))
    layers = [WinogradLayer(f"layer{index}", weights, pixels) for index, (weights, pixels) in enumerate(sizes)]
    return layers, sum(entry.weights_bytes for entry in layers) + draw(st.integers(0, 500))


def transformed_bytes(layers: list[WinogradLayer], model_bytes: int, chosen: frozenset[str]) -> float:
    return model_bytes + sum(((4 if entry.name in chosen else 16 / 9) - 1) * entry.weights_bytes for entry in layers)


@given(models(), st.floats(1, 5))
def test_transformed_weights_stay_within_the_factor(model: tuple[list[WinogradLayer], int], factor: float) -> None:
    layers, model_bytes = model
    chosen = layers_with_f43(layers, model_bytes, factor)
    least = transformed_bytes(layers, model_bytes, frozenset())
    assert transformed_bytes(layers, model_bytes, chosen) <= max(factor * model_bytes, least) + 1e-6
    # Nothing that would still fit in was left out.
    for entry in layers:
        if entry.name not in chosen:
            assert transformed_bytes(layers, model_bytes, chosen | {entry.name}) > factor * model_bytes - 1e-6


@given(models())
def test_with_room_for_all_of_them_all_are_chosen(model: tuple[list[WinogradLayer], int]) -> None:
    layers, model_bytes = model
    assert layers_with_f43(layers, model_bytes, 4.001) == {entry.name for entry in layers}


def test_the_streams_of_parnet_l_with_large_maps_are_chosen() -> None:
    """Widths and maps of table A1 at 224 pixels; the whole model has 211 MiB."""
    streams = {1: (160, 56, 4), 2: (320, 28, 5), 3: (640, 14, 5)}
    layers = [
        layer(f"stream{stream}.{index}", width, size)
        for stream, (width, size, count) in streams.items()
        for index in range(count)
    ]
    chosen = layers_with_f43(layers, 211 * MIB, MEMORY_FACTOR)
    assert chosen == {entry.name for entry in layers if not entry.name.startswith("stream3")}
