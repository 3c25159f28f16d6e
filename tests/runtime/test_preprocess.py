"""Preprocessing: timm's evaluation transform to the bit, and files that are not what they seem."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parnet_deploy.artifacts.schemas import Preprocessing
from parnet_deploy.errors import DataError
from parnet_deploy.runtime.preprocess import find_images, load_image, load_images, preprocess

PLAIN = Preprocessing(input_size=(3, 8, 8), mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)


def random_image(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels, mode=None)


def timm_transform(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    import timm.data

    channels, height, width = preprocessing.input_size
    transform = timm.data.create_transform(
        input_size=(channels, height, width),
        is_training=False,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean[:channels],
        std=preprocessing.std[:channels],
        crop_pct=preprocessing.crop_pct,
    )
    array: np.ndarray = transform(image).numpy()
    return array


@settings(deadline=None, max_examples=120)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    channels=st.sampled_from([1, 3]),
    target=st.one_of(
        st.integers(1, 96).map(lambda side: (side, side)), st.tuples(st.integers(1, 96), st.integers(1, 96))
    ),
    crop_pct=st.sampled_from([1.0, 0.95, 0.9, 0.875, 0.5]),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    seed=st.integers(0, 1000),
)
def test_numbers_are_timm_s(
    size: tuple[int, int],
    channels: int,
    target: tuple[int, int],
    crop_pct: float,
    interpolation: str,
    seed: int,
) -> None:
    preprocessing = Preprocessing(
        input_size=(channels, *target),
        interpolation=interpolation,  # type: ignore[arg-type]
        crop_pct=crop_pct,
    )
    image = random_image(*size, mode="L" if channels == 1 else "RGB", seed=seed)
    ours = preprocess(image, preprocessing)
    assert (ours.dtype, ours.shape, ours.flags.c_contiguous) == (np.float32, (channels, *target), True)
    np.testing.assert_array_equal(ours, timm_transform(image, preprocessing))


@pytest.mark.parametrize("size", [(224, 224), (256, 256), (500, 375), (375, 500), (1024, 231), (64, 64)])
def test_imagenet_s_transform_is_timm_s_on_real_sizes(size: tuple[int, int]) -> None:
    image = random_image(*size)
    np.testing.assert_array_equal(preprocess(image, Preprocessing()), timm_transform(image, Preprocessing()))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_mode_become_grey_or_rgb_as_pillow_converts_them(mode: str, channels: int) -> None:
    image = random_image(8, 8).convert(mode)
    preprocessing = PLAIN.model_copy(update={"input_size": (channels, 8, 8)})
    converted = np.asarray(image.convert("RGB" if channels == 3 else "L"), np.float32) / np.float32(255)
    expected = converted.transpose(2, 0, 1) if channels == 3 else converted[None]
    np.testing.assert_array_equal(preprocess(image, preprocessing), expected)


@pytest.mark.parametrize(("mode", "suffix"), [("I;16", ".png"), ("I;16", ".tif"), ("I", ".tif")])
def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path, mode: str, suffix: str) -> None:
    values = np.linspace(0, 65535, 64).reshape(8, 8)
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.int32))
    assert image.mode == mode
    expected = np.repeat(np.floor(values)[None] // 256 / 255, 3, axis=0).astype(np.float32)
    np.testing.assert_allclose(preprocess(image, PLAIN), expected, rtol=0, atol=1e-7)
    image.save(tmp_path / f"grey{suffix}")
    np.testing.assert_allclose(load_image(tmp_path / f"grey{suffix}", PLAIN), expected, rtol=0, atol=1e-7)


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = random_image(8, 8).quantize(16)
    image.save(tmp_path / "palette.png", transparency=bytes(range(16)))
    expected = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(load_image(tmp_path / "palette.png", PLAIN), expected)


def test_the_orientation_tag_is_not_looked_at(tmp_path: Path) -> None:
    image = random_image(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png", PLAIN), preprocess(image, PLAIN))


def test_files_are_stacked_in_their_order(tmp_path: Path) -> None:
    paths = []
    for seed in range(3):
        paths.append(tmp_path / f"{seed}.png")
        random_image(10 + seed, 9, seed=seed).save(paths[-1])
    images = load_images(paths, PLAIN)
    assert images.shape == (3, 3, 8, 8)
    for seed in range(3):
        np.testing.assert_array_equal(images[seed], preprocess(random_image(10 + seed, 9, seed=seed), PLAIN))


def bomb(path: Path, width: int, height: int) -> None:
    """Write a PNG of a few bytes that says it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_naming_the_file(tmp_path: Path, side: int) -> None:
    bomb(tmp_path / "bomb.png", side, side)
    with pytest.raises(DataError, match=r"more than is safe|could be decompression bomb") as caught:
        load_image(tmp_path / "bomb.png", PLAIN)
    assert caught.value.where == str(tmp_path / "bomb.png")
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".webp", ".tif"])
@pytest.mark.parametrize("kept", [0, 3, 20, 0.3, 0.7])
def test_a_file_that_is_cut_short_is_refused_naming_the_file(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"short{suffix}"
    random_image(64, 64).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(DataError) as caught:
        load_image(path, PLAIN)
    assert caught.value.where == str(path)


@settings(deadline=None, max_examples=150)
@given(suffix=st.sampled_from([".jpg", ".png", ".gif", ".bmp", ".webp", ".tif"]), data=st.data())
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_damaged_files_give_an_image_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    random_image(24, 24).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    result: tuple[int, ...] | str | None
    try:
        result = load_image(path, PLAIN).shape
    except DataError as error:
        result = error.where
    assert result in ((3, 8, 8), str(path))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_what_is_no_image_is_refused_naming_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not an image that Pillow can read") as caught:
        load_image(path, PLAIN)
    assert caught.value.where == str(path)
    with pytest.raises(DataError, match="No such file"):
        load_image(tmp_path / "none.png", PLAIN)


def test_images_without_an_answer_are_refused() -> None:
    with pytest.raises(DataError, match="32-bit floats"):
        preprocess(Image.new("F", (8, 8)), PLAIN)
    with pytest.raises(DataError, match="too narrow"):
        preprocess(Image.new("RGB", (1, 9_000)), Preprocessing())
    with pytest.raises(DataError, match="takes 4"):
        preprocess(Image.new("RGB", (8, 8)), Preprocessing(input_size=(4, 8, 8)))
    with pytest.raises(DataError, match="no images"):
        load_images([], PLAIN)


def test_finding_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.png", "sub/c.webp", "notes.txt", ".hidden.png", "sub/deep/d.jpeg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)] == [
        "a.png",
        "b.JPG",
        "sub/c.webp",
        "sub/deep/d.jpeg",
    ]
    assert find_images(tmp_path / "notes.txt") == (tmp_path / "notes.txt",)
    with pytest.raises(DataError, match="holds no images"):
        find_images(tmp_path / "folder.png")
    with pytest.raises(DataError, match="no such file or folder"):
        find_images(tmp_path / "gone")


def photographs() -> list[Image.Image]:
    datasets = pytest.importorskip("sklearn.datasets")
    return [Image.fromarray(pixels) for pixels in datasets.load_sample_images().images]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [16, 17, 23, 31, 43, 62])
def test_scaled_decoding_stays_near_the_training_transform(tmp_path: Path, side: int, interpolation: str) -> None:
    """In levels of 255, on photographs that are decoded at an eighth to a half of their 640x427 pixels."""
    preprocessing = Preprocessing(
        input_size=(3, side, side),
        mean=(0, 0, 0),
        std=(1 / 255, 1 / 255, 1 / 255),
        interpolation=interpolation,  # type: ignore[arg-type]
    )
    for index, photograph in enumerate(photographs()):
        path = tmp_path / f"{index}.jpg"
        photograph.save(path, quality=92)
        exact, scaled = load_image(path, preprocessing), load_image(path, preprocessing, scaled=True)
        difference = np.abs(exact - scaled)
        assert scaled.shape == exact.shape
        assert 0 < difference.mean() <= 2
        assert difference.max() <= 32


def test_scaled_decoding_leaves_small_photographs_other_formats_and_nearest_alone(tmp_path: Path) -> None:
    photograph = photographs()[0]
    photograph.save(tmp_path / "photograph.jpg")
    photograph.save(tmp_path / "photograph.png")
    # 427 rows are less than six times 73, and more than six times 70.
    small = Preprocessing(input_size=(3, 64, 64))
    nearest = small.model_copy(update={"interpolation": "nearest"})
    for name, preprocessing, is_same in (
        ("photograph.jpg", small, True),
        ("photograph.png", small, True),
        ("photograph.jpg", nearest, True),
        ("photograph.jpg", Preprocessing(input_size=(3, 61, 61)), False),
    ):
        exact = load_image(tmp_path / name, preprocessing)
        assert (exact == load_image(tmp_path / name, preprocessing, scaled=True)).all() == is_same


def test_scaled_decoding_takes_grey_and_narrow_files(tmp_path: Path) -> None:
    random_image(900, 700, mode="L").save(tmp_path / "grey.jpg")
    random_image(16, 2000).save(tmp_path / "narrow.jpg")
    for name in ("grey.jpg", "narrow.jpg"):
        assert load_image(tmp_path / name, PLAIN, scaled=True).shape == (3, 8, 8)
