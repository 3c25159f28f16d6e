"""Damaged files: bits flipped in every region, cut short, grown, missing, or something else in their place."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.case import REFUSED, REFUSED_OR_DONE, Case, End, Outcome
from tests.fuzz.originals import PARTS, Originals

REGIONS = 16


@dataclass(frozen=True)
class Reader:
    """A command that reads an original; what it may write is in `outputs`."""

    uses: tuple[str, ...]
    argv: tuple[str, ...]
    outputs: tuple[str, ...] = ()


# The commands take turns over the damages of an original's files.
READERS: dict[str, tuple[Reader, ...]] = {
    "trained": (
        Reader(("trained",), ("inspect", "trained.safetensors", "--json")),
        Reader(("trained",), ("fuse", "trained.safetensors", "-o", "o.safetensors"), ("o.safetensors", "o.json")),
        Reader(("trained", "labelled"), ("evaluate", "trained.safetensors", "labelled")),
    ),
    "fused": (
        Reader(("fused",), ("export", "fused.safetensors", "-o", "o"), ("o",)),
        Reader(("fused",), ("hub-export", "fused.safetensors", "-o", "hub_o"), ("hub_o",)),
        Reader(("fused", "whole"), ("verify", "whole", "fused.safetensors", "--json")),
    ),
    "whole": (
        Reader(("whole",), ("inspect", "whole", "--json")),
        Reader(("whole",), ("build", "whole", "-o", "o", "--threads", "1"), ("o",)),
        Reader(("whole", "plan_whole"), ("verify", "whole", "plan_whole", "--json")),
    ),
    "split": (
        Reader(("split",), ("build", "split", "-o", "o", "--threads", "1"), ("o",)),
        Reader(("split",), ("plan", "split", "--devices", "2", "--device-profile", "rtx3090", "--json")),
    ),
    "plan": (
        Reader(("plan", "photo"), ("run", "plan", "photo.png", "--json")),
        Reader(("plan",), ("inspect", "plan", "--json")),
        Reader(("plan", "whole"), ("verify", "whole", "plan", "--per-stage", "--json")),
    ),
    "plan_whole": (
        Reader(("plan_whole", "photo"), ("run", "plan_whole", "photo.png", "--json")),
        Reader(("plan_whole",), ("serve-bench", "plan_whole", "--rounds", "1", "--duration", "0.01", "--json")),
    ),
    "golden": (Reader(("golden", "plan_whole"), ("verify", "plan_whole", "--golden", "golden.json", "--json")),),
    "authors": (
        Reader(("authors",), ("import", "authors.pth.tar", "-o", "o.safetensors"), ("o.safetensors", "o.json")),
    ),
    "hub": (Reader(("hub",), ("import", "hub", "-o", "o.safetensors"), ("o.safetensors", "o.json")),),
    "photo": (Reader(("plan_whole", "photo"), ("run", "plan_whole", "photo.png", "--json")),),
    "photos": (Reader(("plan_whole", "photos"), ("run", "plan_whole", "photos", "--json")),),
}
# Files of others carry no hash of ours: a changed one is another one. What is made of it names its hash, and is whole.
FOREIGN = ("authors", "hub", "photo", "photos")


def files_of(original: str, folder: Path) -> list[str]:
    """Return the files of an original, relative to the folder of originals."""
    found: list[str] = []
    for part in PARTS[original]:
        path = folder / part
        found += (
            [part] if path.is_file() else sorted(str(p.relative_to(folder)) for p in path.rglob("*") if p.is_file())
        )
    return [file for file in found if not file.endswith("README.md")]


def cases(originals: Originals) -> Iterator[Case]:
    """Yield every damage of every file of every original."""
    for original, readers in READERS.items():
        turn = 0
        for file in files_of(original, originals.folder):
            for kind, name, prepare, is_gone in _damages(originals.folder / file, file):
                yield _case(
                    originals, kind, f"{file} {name}", file, original, readers[turn % len(readers)], prepare, is_gone
                )
                turn += 1


def _damages(path: Path, file: str) -> Iterator[tuple[str, str, object, bool]]:
    size = path.stat().st_size
    for region in range(min(REGIONS, size)):
        # The first and last bytes of the file are among those that are hit.
        offset = (size - 1) * region // (min(REGIONS, size) - 1)
        yield "flipped byte", f"bit {region % 8} of byte {offset}", _flip(file, offset, region % 8), False
    for length in sorted({0, 1, 8, size // 2, size - 1}):
        yield "cut short", f"cut to {length} bytes", _cut(file, length), False
    yield "grown", "with a tail", _grow(file), False
    yield "missing file", "removed", lambda f: (f / file).unlink(), True
    for name, replace in _REPLACEMENTS.items():
        yield "something else", f"replaced by {name}", _replace(file, replace), True


def _flip(file: str, offset: int, bit: int):
    def prepare(folder: Path) -> None:
        data = bytearray((folder / file).read_bytes())
        data[offset] ^= 1 << bit
        (folder / file).write_bytes(data)

    return prepare


def _cut(file: str, length: int):
    return lambda folder: os.truncate(folder / file, length)


def _grow(file: str):
    def prepare(folder: Path) -> None:
        with (folder / file).open("ab") as stream:
            stream.write(b"\0{}tail\xff")

    return prepare


def _replace(file: str, replace):
    def prepare(folder: Path) -> None:
        (folder / file).unlink()
        replace(folder / file)

    return prepare


_REPLACEMENTS = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "random bytes": lambda path: path.write_bytes(bytes(range(256)) * 64),
    "JSON": lambda path: path.write_text("{}"),
    "an ELF header": lambda path: path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(200)),
}


def _case(
    originals: Originals, kind: str, name: str, file: str, original: str, reader: Reader, prepare, is_gone: bool
) -> Case:
    command = reader.argv[0]
    ends: frozenset[End] = REFUSED
    if original in FOREIGN and not (is_gone and original not in ("photos", "hub")):
        ends = REFUSED_OR_DONE
    return Case(
        kind,
        f"{name}, {command}",
        reader.argv,
        reader.uses,
        prepare,
        reader.outputs,
        # A manifest that says the same in other bytes may be taken; nothing else may.
        ends=ends | {"done"} if file.endswith(".json") else ends,
        accept=_same_json(originals, file) if original not in FOREIGN else lambda _folder, _outcome: None,
    )


def _same_json(originals: Originals, file: str):
    def accept(folder: Path, outcome: Outcome) -> str | None:
        del outcome
        now = json.loads((folder / file).read_bytes())
        return None if now == json.loads((originals.folder / file).read_bytes()) else f"a changed {file} was taken"

    return accept
