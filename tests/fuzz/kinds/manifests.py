"""Manifests that say something else: forged, of another version, machine or network, with hostile values."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from parnet_deploy.artifacts.files import SEAL
from tests.fuzz.case import REFUSED, REFUSED_OR_DONE, Case, Outcome
from tests.fuzz.kinds.damage import READERS, Reader
from tests.fuzz.originals import Originals

# The manifest of each original.
MANIFESTS = {
    "trained": "trained.json",
    "fused": "fused.json",
    "whole": "whole/bundle.json",
    "split": "split/bundle.json",
    "plan": "plan/plan.json",
    "golden": "golden.json",
    "hub": "hub/config.json",
}
Path_ = tuple[str | int, ...]
_PER_MANIFEST = 30
_HOSTILE: tuple[Any, ...] = (
    None,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**40,
    -0.0,
    1e-320,
    float("inf"),
    float("nan"),
    "",
    "../../x",
    "/etc/passwd",
    "x" * 100_000,
    "\0",
    "\ud800",
    "[red]",
    "%s%n",
    [],
    {},
    [[]],
    True,
    ["a", "a"],
    "cpu",
    "cuda:0",
    "fp16",
)
_TRAVERSALS = (
    "../whole/whole.onnx",
    "/etc/passwd",
    "a/b.onnx",
    "..",
    ".",
    ".hidden",
    "a\\b.onnx",
    "",
    "x\0y",
    "a\n",
    "x" * 300,
    "~/x",
    "C:\\x",
    "//x",
    "%2e%2e%2fx",
    "bundle.json/../x",
)


def cases(originals: Originals) -> Iterator[Case]:
    """Yield forged manifests, with their seal as it was and without one."""
    for original, file in MANIFESTS.items():
        content = json.loads((originals.folder / file).read_bytes())
        yield from _versions(original, file, content)
        yield from _named_changes(original, file, content)
        yield from _mutations(original, file, content)


def _write(file: str, content: Any) -> Callable[[Path], None]:
    text = json.dumps(content)
    return lambda folder: (folder / file).write_text(text)


def _versions(original: str, file: str, content: dict[str, Any]) -> Iterator[Case]:
    if original == "hub":
        return
    reader = READERS[original][0]
    for version in (0, 2, 99, -1, "1", 1.5, None, [], True, 2**70):
        changed = {**content, "schema_version": version}
        name = f"{file} of version {version!r}"
        # True is 1 in Python and in JSON's readers of Python; it is refused as a type.
        yield Case("newer schema", name, reader.argv, reader.uses, _write(file, changed), reader.outputs)
    for kind in ("report", "checkpoints", "", None, 7):
        changed = {**content, "kind": kind}
        yield Case("foreign manifest", f"{file} of kind {kind!r}", reader.argv, reader.uses, _write(file, changed))
    for value in ([], None, 7, "text", [content], {}):
        yield Case(
            "foreign manifest",
            f"{file} is {type(value).__name__} {len(str(value))}",
            reader.argv,
            reader.uses,
            _write(file, value),
        )


def set_at(content: Any, path: Path_, value: Any) -> Any:
    """Return a copy of JSON content with another value at `path`."""
    changed = copy.deepcopy(content)
    place = changed
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return changed


def unsealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest as one that was made by hand."""
    return {name: value for name, value in content.items() if name != SEAL}


def _named_changes(original: str, file: str, content: dict[str, Any]) -> Iterator[Case]:
    """Yield the changes that the rules name; without a seal, so that the rule itself must hold."""
    readers = READERS[original]
    for kind, name, path, value in _rules(original):
        for number, changed in enumerate((set_at(unsealed(content), path, value), set_at(content, path, value))):
            sealed = " beside the old seal" if number else ""
            for reader in _of(kind, readers):
                yield Case(
                    kind,
                    f"{file}: {name}{sealed}, {reader.argv[0]}",
                    reader.argv,
                    reader.uses,
                    _write(file, changed),
                    reader.outputs,
                )


def _of(kind: str, readers: tuple[Reader, ...]) -> tuple[Reader, ...]:
    """Return the readers that must refuse: all of them a wrong path, one that reads the weights anything else."""
    return (
        readers
        if kind == "path traversal"
        else readers[1:2]
        if len(readers) == 3 and "o.safetensors" in readers[1].outputs
        else readers[:1]
    )


def _rules(original: str) -> Iterator[tuple[str, str, Path_, Any]]:
    files: dict[str, Path_] = {
        "trained": ("weights", "name"),
        "whole": ("stages", 0, "file", "name"),
        "plan": ("engines", 0, "file", "name"),
    }
    if original in files and original != "trained":
        for traversal in _TRAVERSALS:
            yield "path traversal", f"file {traversal[:30]!r}", files[original], traversal
        for traversal in ("../x", "/x", "a/b", "", ".", ".."):
            yield (
                "path traversal",
                f"stage {traversal!r}",
                (*files[original][:2], "stage" if original == "plan" else "name"),
                traversal,
            )
    if original == "plan":
        yield "other machine", "another capability", ("devices", 0, "capability"), "x86-64 avx1024"
        yield "other machine", "another version", ("backend_version",), "0.0.1"
        yield "other machine", "another backend", ("backend",), "openvino"
        yield "other machine", "no such backend", ("backend",), "magic"
        yield "other machine", "TensorRT", ("backend",), "tensorrt"
        yield "other machine", "a GPU", ("placement", "stream1", "device"), "cuda:0"
        yield "other machine", "no device", ("devices",), []
        yield "other machine", "a device that is no device", ("devices", 0, "device"), "tpu:0"
        yield "bad schedule", "no commands", ("schedule",), []
        yield (
            "bad schedule",
            "a wait for nobody",
            ("schedule", 0),
            {"op": "wait", "lane": {"device": "cpu", "stream": 0}, "event": "never"},
        )
        yield (
            "bad schedule",
            "no such stage",
            ("schedule", 0),
            {"op": "launch", "lane": {"device": "cpu", "stream": 0}, "stage": "x"},
        )
        yield "bad schedule", "a lane too many", ("placement", "join"), {"device": "cpu", "stream": 7}
    if original != "golden":
        classes: Path_ = ("num_classes",) if original == "hub" else ("network", "num_classes")
        for count in (0, 1, 9, 11, 10**9, -1, None):
            yield "wrong class count", f"{count!r} classes", classes, count
        for labels in ([], ["one"], ["a"] * 9, ["a"] * 11, "0123456789", [1] * 10, {"0": "a"}):
            yield "wrong labels", f"{len(labels)} labels as {type(labels).__name__}", ("label_names",), labels
    if original not in ("golden", "hub"):
        for size in ([3, 0, 32], [3, 33, 32], [3, 32], [1, 32, 32], [3, 10**6, 10**6], [3, -32, -32], [3, 31, 31], []):
            yield "wrong size", f"input size {size}", ("preprocessing", "input_size"), size


def _leaves(content: Any, path: Path_ = ()) -> Iterator[Path_]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*path, key)
            yield from _leaves(value, (*path, key))
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield (*path, index)
            yield from _leaves(value, (*path, index))


def _mutations(original: str, file: str, content: dict[str, Any]) -> Iterator[Case]:
    """Yield changes drawn at random: what is taken must then work as if it had been made so."""
    draw = random.Random(file)
    plain = unsealed(content)
    places = sorted(_leaves(plain), key=str)
    for number in range(_PER_MANIFEST):
        path = draw.choice(places)
        changed, what = _mutated(plain, path, draw)
        if changed == plain:
            continue
        readers = READERS[original]
        reader = readers[number % len(readers)]
        if number % 3 == 2 and original not in ("golden", "hub"):
            # The seal is that of the original, so every change must be noticed.
            yield _drawn(file, path, what, reader, {**changed, SEAL: content[SEAL]}, is_sealed=True)
        else:
            yield _drawn(file, path, what, reader, changed, is_sealed=False)


def _drawn(file: str, path: Path_, what: str, reader: Reader, content: Any, *, is_sealed: bool) -> Case:
    name = f"{file}: {'.'.join(map(str, path))} {what}{' beside the old seal' if is_sealed else ''}, {reader.argv[0]}"
    ends = REFUSED if is_sealed else REFUSED_OR_DONE | {"failed"}
    return Case(
        "hostile value",
        name,
        reader.argv,
        reader.uses,
        _write(file, content),
        reader.outputs,
        ends=ends,
        accept=_accept,
    )


def _accept(_folder: Path, outcome: Outcome) -> str | None:
    """What is taken needs no more than to end well; a warning of Python would be a leak of it."""
    return "a warning on stderr" if "Warning:" in outcome.stderr else None


def _mutated(content: Any, path: Path_, draw: random.Random) -> tuple[Any, str]:
    choice = draw.random()
    if choice < 0.15 and isinstance(path[-1], str):
        changed = copy.deepcopy(content)
        place = changed
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]
        return changed, "left out"
    if choice < 0.25 and isinstance(path[-1], str):
        return set_at(content, (*path[:-1], "surprise"), 1), "beside a surprise"
    value = draw.choice(_HOSTILE)
    return set_at(content, path, value), f"= {str(value)[:20]!r}"
