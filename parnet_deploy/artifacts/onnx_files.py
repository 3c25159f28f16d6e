"""Tell whether an ONNX file keeps weights in other files, which no manifest knows and no hash covers.

Reads the protobuf wire format (protobuf.dev/programming-guides/encoding) and skips what it does not need, so that it
takes no time and no package; field numbers are those of onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from parnet_deploy.errors import ArtifactError

# Message fields that lead from a ModelProto to its tensors: the field's number and the fields of what it holds.
_Fields = dict[int, "_Fields | None"]
_GRAPH: _Fields = {}
_ATTRIBUTE: _Fields = {5: None, 10: None, 6: _GRAPH, 11: _GRAPH}
_NODE: _Fields = {5: _ATTRIBUTE}
_GRAPH.update({1: _NODE, 5: None})
_MODEL: _Fields = {7: _GRAPH, 25: {7: _NODE}}
# TensorProto.data_location and its value EXTERNAL.
_LOCATION, _EXTERNAL = 14, 1
# TensorProto.external_data, entries of a key and a value.
_EXTERNAL_DATA = 13
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64


def refuse_external_data(path: Path, known: str | None = None) -> None:
    """Raise `ArtifactError` if a tensor of an ONNX file lies in another file than `known`, which the manifest knows.

    What is no protobuf is left to whoever reads the file next.
    """
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            is_external = _has_external(data, 0, len(data), _MODEL, (known or "").encode(), 0)
        except (IndexError, ValueError):
            return
    if is_external:
        raise ArtifactError(
            "keeps weights in another file, which has no hash in the manifest",
            where=path,
            remedy="export the checkpoint again; a bundle's graphs hold their weights",
        )


def _has_external(data: mmap.mmap, start: int, end: int, fields: _Fields, known: bytes, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("too deep")
    for number, begin, stop in _messages(data, start, end):
        if number in fields:
            inner = fields[number]
            if inner is None:
                found = _is_external(data, begin, stop) and _location(data, begin, stop) != known
            else:
                found = _has_external(data, begin, stop, inner, known, depth + 1)
            if found:
                return True
    return False


def _is_external(data: mmap.mmap, start: int, end: int) -> bool:
    return any(number == _LOCATION and value == _EXTERNAL for number, value in _numbers(data, start, end))


def _location(data: mmap.mmap, start: int, end: int) -> bytes | None:
    """Return the name of the file that a tensor lies in; the last one counts, as for protobuf."""
    location = None
    for number, begin, stop in _messages(data, start, end):
        if number == _EXTERNAL_DATA:
            entry = {inner: data[first:last] for inner, first, last in _messages(data, begin, stop)}
            if entry.get(1) == b"location":
                location = entry.get(2, b"")
    return location


def _messages(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number, begin and end of every field with a length."""
    for number, kind, begin, stop in _fields(data, start, end):
        if kind == _BYTES:
            yield number, begin, stop


def _numbers(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the number and value of every field that is a number of variable length."""
    for number, kind, begin, _ in _fields(data, start, end):
        if kind == _VARINT:
            yield number, _varint(data, begin, end)[0]


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield every field's number, kind, and where its content begins and ends."""
    place = start
    while place < end:
        key, place = _varint(data, place, end)
        kind = key & 7
        if kind == _BYTES:
            length, place = _varint(data, place, end)
            stop = place + length
        elif kind == _VARINT:
            stop = _varint(data, place, end)[1]
        elif kind in (_FIXED64, _FIXED32):
            stop = place + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError("no protobuf")
        if stop > end:
            raise ValueError("cut short")
        yield key >> 3, kind, place, stop
        place = stop


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """Return a number of variable length, at most ten bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise ValueError("cut short")
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number too long")
