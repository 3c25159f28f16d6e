"""Pickles that would run code, and torch files that are none."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

from tests.fuzz.case import Case
from tests.fuzz.kinds.forgery import writes
from tests.fuzz.originals import Originals

_IMPORT = ("import", "authors.pth.tar", "-o", "o.safetensors")
_MADE = ("o.safetensors", "o.json")


class _Call:
    """Pickles as a call of a function by name."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.parts = module, name, arguments

    def write(self, pickler: _Writer) -> None:
        module, name, arguments = self.parts
        pickler.write(b"c" + f"{module}\n{name}\n".encode())
        pickler.save(arguments)
        pickler.write(b"R")


class _Writer(pickle._Pickler):
    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, _Call):
            obj.write(self)
        else:
            super().save(obj, save_persistent_id)


def pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    _Writer(stream, protocol=2).dump(value)
    return stream.getvalue()


def _as_zip(data: bytes, **others: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
        for name, content in others.items():
            file.writestr(f"archive/{name}", content)
    return stream.getvalue()


# Each would leave a file in the case's folder.
CALLS = {
    "os.system": _Call("os", "system", "touch PWNED"),
    "posix.system": _Call("posix", "system", "touch PWNED"),
    "builtins.eval": _Call("builtins", "eval", "open('PWNED', 'w')"),
    "builtins.exec": _Call("builtins", "exec", "open('PWNED', 'w')"),
    "builtins.open": _Call("builtins", "open", "PWNED", "w"),
    "__builtin__.eval": _Call("__builtin__", "eval", "open('PWNED', 'w')"),
    "subprocess.Popen": _Call("subprocess", "Popen", ["touch", "PWNED"]),
    "subprocess.check_output": _Call("subprocess", "check_output", ["touch", "PWNED"]),
    "pathlib.Path.touch": _Call("builtins", "getattr", _Call("pathlib", "Path", "PWNED"), "touch"),
    "runpy": _Call("runpy", "_run_code", "open('PWNED', 'w')", {}),
    "importlib": _Call("importlib", "import_module", "antigravity"),
    "torch.load": _Call("torch", "load", "authors.pth.tar"),
    "torch.hub": _Call("torch.hub", "load", "x/y", "z"),
    "torch.jit": _Call("torch._utils", "_import_dotted_name", "os.system"),
    "numpy.load": _Call("numpy", "load", "authors.pth.tar"),
    "functools.partial": _Call("functools", "partial", _Call("os", "system", "touch PWNED")),
    "shutil.rmtree": _Call("shutil", "rmtree", "."),
    "socket": _Call("socket", "create_connection", ("localhost", 1)),
    "operator.attrgetter": _Call("operator", "attrgetter", "system"),
    "argparse.FileType": _Call("argparse", "FileType", "w"),
}


def cases(_originals: Originals) -> Iterator[Case]:
    """Yield every pickle, as torch writes them now and as it once did."""

    def case(name: str, data: bytes) -> Case:
        return Case("hostile pickle", name, _IMPORT, (), writes("authors.pth.tar", data), _MADE)

    for name, call in CALLS.items():
        content = {"state_dict": {}, "args": call}
        yield case(f"{name}, zip", _as_zip(pickled(content)))
        yield case(f"{name}, bare", pickled(content))
        yield case(f"{name} as the whole", _as_zip(pickled(call)))
    laughs: Any = ["ha"]
    for _ in range(40):
        laughs = [laughs] * 10
    for name, value in {
        "ten to the forty laughs": {"state_dict": {}, "args": laughs},
        "no state_dict": {"weights": {}},
        "an empty state_dict": {"state_dict": {}},
        "a state_dict of numbers": {"state_dict": {"a": 1}},
        "a list": [1, 2],
        "None": None,
        "keys that are numbers": {"state_dict": {1: 2}},
        "a huge number": {"state_dict": {}, "epoch": 10**5000},
    }.items():
        yield case(name, _as_zip(pickled(value)))
    yield case("100,000 lists in each other", _as_zip(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."))
    yield case("a stack that is empty", b"\x80\x02R.")
    yield case("an opcode that is none", b"\x80\x02\xff.")
    yield case("a memo of 4 GB", b"\x80\x02N" + b"r\xff\xff\xff\xff" + b".")
    yield case("a string of 4 GB", b"\x80\x02X\xff\xff\xff\xff.")
    yield case("a zip of nothing", _as_zip(b"")[:-4])
    yield case("a zip with two pickles", _as_zip(pickled({}), **{"data.pkl/../data.pkl": b"x"}))
    yield case("a zip bomb", _zip_bomb())


def _zip_bomb() -> bytes:
    """Return a torch file whose pickle is 256 MiB of zeros, deflated to a thousandth."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(2**28))
        file.writestr("archive/version", b"3\n")
    return stream.getvalue()
