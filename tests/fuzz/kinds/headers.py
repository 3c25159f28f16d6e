"""Safetensors files whose headers lie; the hashes in their cards are right."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.kinds.forgery import with_weights, writes
from tests.fuzz.kinds.pickles import CALLS, pickled
from tests.fuzz.originals import DATA, Originals

_MADE = ("o.safetensors", "o.json")


def _with_header(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def cases(originals: Originals) -> Iterator[Case]:
    """Yield every header, in a checkpoint and in a folder of the Hub."""
    good = (originals.folder / "trained.safetensors").read_bytes()
    size = struct.unpack("<Q", good[:8])[0]
    header, body = json.loads(good[8 : 8 + size]), good[8 + size :]
    name = next(key for key in header if key != "__metadata__")
    entry = header[name]

    def changed(**fields: Any) -> bytes:
        return _with_header({**header, name: {**entry, **fields}}, body)

    bombs = {
        "a header of 2^63 bytes": _with_header(b"{}", length=2**63),
        "a header of 2^64 - 1 bytes": _with_header(b"{}", length=2**64 - 1),
        "a header beyond the file": _with_header(b"{}", length=10_000),
        "a header of 0 bytes": struct.pack("<Q", 0),
        "a header of 60 MB": _with_header(b'{"__metadata__":{"a":"' + b"x" * 60_000_000 + b'"}}'),
        "a header of brackets": _with_header(b"[" * 100_000),
        "a header of objects": _with_header(b'{"a":' * 50_000),
        "a header that is no UTF-8": _with_header(b"\xff\xfe{}"),
        "a header that is a list": _with_header([]),
        "an empty header": _with_header({}),
        "a shape that overflows": changed(shape=[2**32, 2**32, 2**32]),
        "a negative shape": changed(shape=[-1, 3]),
        "offsets beyond the file": changed(data_offsets=[0, 2**40]),
        "offsets backwards": changed(data_offsets=[64, 0]),
        "offsets over another tensor": changed(data_offsets=[8, 8 + entry["data_offsets"][1]]),
        "a type that is none": changed(dtype="F9"),
        "float16": changed(dtype="F16"),
        "integers": changed(dtype="I32"),
        "a name twice": _with_header(
            json.dumps(header).encode().replace(b"{", b'{"x":' + json.dumps(entry).encode() + b",", 1), body
        ),
        "a tensor too many": _with_header(
            {**header, "extra": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}, body
        ),
        "a tensor too few": _with_header({k: v for k, v in header.items() if k != name}, body),
        "a pickle": pickled(CALLS["os.system"]),
        "a torch file": (DATA / "tiny_relu.pth.tar").read_bytes(),
        "a million tensors": _with_header(
            {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**6)}
        ),
    }
    for what, data in bombs.items():
        for argv in (
            ("fuse", "trained.safetensors", "-o", "o.safetensors"),
            ("hub-export", "trained.safetensors", "-o", "hub_o"),
        ):
            yield Case(
                "hostile safetensors",
                f"{what}, {argv[0]}",
                argv,
                ("trained",),
                with_weights(lambda _, data=data: data),
                _MADE,
            )
        yield Case(
            "hostile safetensors",
            f"{what}, import",
            ("import", "hub", "-o", "o.safetensors"),
            ("hub",),
            writes("hub/model.safetensors", data),
            _MADE,
        )
