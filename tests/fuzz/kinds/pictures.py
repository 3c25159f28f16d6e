"""Pictures that are too large, cut short, bombs, or of formats that are programs."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fuzz.case import REFUSED_OR_DONE, Case, Outcome
from tests.fuzz.kinds.forgery import writes
from tests.fuzz.originals import Originals

_RUN = ("run", "plan_whole", "photo.png", "--json")
_TRAIN = tuple(
    ["train", "--data", "labelled", "--epochs", "1", "--resolution", "32", "--workers", "0", "-o", "o.safetensors"]
)
_MADE = ("o.safetensors", "o.json")


def _png(width: int, height: int, body: bytes = b"", extra: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def cases(_originals: Originals) -> Iterator[Case]:
    """Yield every picture, to be classified and to be trained on."""
    zeros = zlib.compress(bytes(2**26), 9)
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * 40) for _ in range(40)))
    pictures: dict[str, bytes] = {
        "100,000 x 100,000 px": _png(100_000, 100_000, zeros),
        "100,000 x 1 px": _png(100_000, 1, zlib.compress(bytes(300_001))),
        "1 x 100,000 px": _png(1, 100_000, zlib.compress(bytes(400_000))),
        "2^31 - 1 px": _png(2**31 - 1, 2**31 - 1, zeros),
        "0 x 0 px": _png(0, 0, b""),
        "9,500 x 9,500 px without data": _png(9_500, 9_500, b""),
        "bombs of text": _png(40, 40, rows, _chunk(b"zTXt", b"a\0\0" + zeros) * 8),
        "a bomb of a colour profile": _png(40, 40, rows, _chunk(b"iCCP", b"a\0\0" + zeros)),
        "a bomb of international text": _png(40, 40, rows, _chunk(b"iTXt", b"a\0\1\0\0\0" + zeros) * 4),
        "a bomb of pixels": _png(40, 40, zlib.compress(bytes(2**28), 9)),
        "no pixels": _png(40, 40, b""),
        "16 bits": _png(40, 40, rows, depth=16),
        "a depth that is none": _png(40, 40, rows, depth=7),
        "a colour type that is none": _png(40, 40, rows, colour=9),
        "a palette without colours": _png(40, 40, rows, colour=3),
        "GIF of 65,535 px": b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + b";",
        "GIF without end": b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0x80, 0, 0) + bytes(6) + b"!\xfe\xff" + b"x" * 255,
        "BMP of negative size": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -9, -9, 1, 24, 0, 0, 0, 0, 0, 0),
        "BMP of 2^31 px": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 1, 1, 24, 0, 0, 0, 0, 0, 0),
        "JPEG of 65,500 px": b"\xff\xd8\xff\xc0\0\x11\x08"
        + struct.pack(">HH", 65_500, 65_500)
        + b"\3\1\x22\0\2\x11\1\3\x11\1",
        "JPEG of nothing": b"\xff\xd8\xff\xd9",
        "PPM of a billion px": b"P6 1000000000 1000000000 255\n",
        "PPM of letters": b"P6 ab cd 255\n",
        "PPM without numbers": b"P6" + b" " * 100_000,
        "TIFF that points at itself": b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\xff\xff\0\0\x08\0\0\0",
        "TIFF of endless entries": b"II*\0\x08\0\0\0\xff\xff" + bytes(64),
        "WebP of nothing": b"RIFF\x04\0\0\0WEBP",
        "EPS that would run": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n(PWNED) (w) file closefile\n%%EOF\n",
        "SVG with an entity": b'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "ICO": b"\0\0\1\0\xff\xff" + bytes(64),
        "FITS": b"SIMPLE  =                    T" + b" " * 2850,
        "MPO": b"\xff\xd8\xff\xe2\0\x10MPF\0" + bytes(64),
        "PSD of 30,000 px": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3),
        "a shell script": b"#!/bin/sh\ntouch PWNED\n",
    }
    for what, data in pictures.items():
        # Some of these are pictures after all, once what is beside the pixels is left alone.
        for argv, uses, place, outputs in (
            (_RUN, ("plan_whole",), "photo.png", ()),
            (_TRAIN, ("labelled",), "labelled/train/class0/0.png", (*_MADE, "o.run")),
        ):
            yield Case(
                "hostile picture",
                f"{what}, {argv[0]}",
                argv,
                uses,
                writes(place, data),
                outputs,
                outputs[2:],
                REFUSED_OR_DONE,
                accept=_only_if(what, _ARE_PICTURES),
            )


_ARE_PICTURES = (
    "100,000 x 1 px",
    "1 x 100,000 px",
    "bombs of text",
    "a bomb of a colour profile",
    "a bomb of international text",
    "a bomb of pixels",
    "16 bits",
    "a palette without colours",
)


def _only_if(what: str, allowed: tuple[str, ...]) -> Callable[[Path, Outcome], str | None]:
    return lambda _folder, _outcome: None if what in allowed else f"{what} was taken for a picture"
