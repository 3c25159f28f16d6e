"""YAML and JSON from users that bomb, nest or say nonsense."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.case import REFUSED, REFUSED_OR_DONE, Case
from tests.fuzz.kinds.forgery import writes
from tests.fuzz.originals import Originals

_IMPORT = ("import", "authors.pth.tar", "-o", "o.safetensors")
_MADE = ("o.safetensors", "o.json")


def cases(_originals: Originals) -> Iterator[Case]:
    """Yield every text."""
    yaml_laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    yamls = {
        "a billion laughs": yaml_laughs + "planes: *i\n",
        "a billion laughs as branches": yaml_laughs + "additional_branches: *i\n",
        "a billion laughs as a rate": yaml_laughs + "dropout_lin: *i\n",
        "a Python object": "!!python/object/apply:os.system ['touch PWNED']",
        "brackets": "[" * 20_000,
        "a list that holds itself": "additional_branches: &a [*a]\n",
        "planes that hold themselves": "planes: &a [*a]\n",
        "not a number": "dropout_lin: .nan\n",
        "a rate of two": "dropout_lin: 2.0\n",
        "true as a rate": "dropout_lin: yes\n",
        "bytes": "\x00\x01",
        "nothing": "",
        "a tab": "\ta: b",
        "two documents": "a: 1\n---\nb: 2\n",
        "an anchor of nothing": "a: *b\n",
        "other planes": "planes: [1, 2, 3, 4]\n",
        "a date": "planes: 2020-01-01\n",
        "a set": "num_blocks: !!set {1, 2}\n",
        "a mapping as key": "? {a: b}\n: c\n",
    }
    for what, text in yamls.items():
        argv = (*_IMPORT, "--config", "config.yaml")
        is_fine = what.startswith(("a list", "true", "a mapping", "a billion laughs as branches"))
        ends = REFUSED_OR_DONE if is_fine else REFUSED
        yield Case("hostile YAML", what, argv, ("authors",), writes("config.yaml", text.encode()), _MADE, ends=ends)
    jsons = {
        "brackets": b"[" * 200_000,
        "objects": b'{"a":' * 100_000,
        "a number of 100,000 digits": b'{"stream1": ' + b"9" * 100_000 + b"}",
        "not UTF-8": b'{"stream1": "\xff"}',
        "a byte order mark": b"\xef\xbb\xbf{}",
        "UTF-16": '{"stream1": 1}'.encode("utf-16"),
        "infinity": b'{"stream1": 1e999, "stream2": 1, "stream3": 1, "join": 1}',
        "not a number": b'{"stream1": NaN, "stream2": 1, "stream3": 1, "join": 1}',
        "negative": b'{"stream1": -1, "stream2": 1, "stream3": 1, "join": 1}',
        "half a surrogate": b'{"\\ud800": 1}',
        "a list": b"[]",
        "null": b"null",
        "text": b'"cpu/0"',
        "nothing": b"",
        "too few": b'{"stream1": 1}',
        "a ranking of nothing": b'{"ranking": [null, 1, {}]}',
        "a ranking that is none": b'{"ranking": 7}',
        "a lane of stream -1": _lanes(b"-1"),
        "a lane of stream 10^30": _lanes(b"1" + b"0" * 30),
        "a lane of many digits": _lanes(b"1" * 5000),
        "markup": b'{"[red]x[/red]": "[bold]"}',
    }
    commands = {
        "times.json": ("plan", "split", "--devices", "2", "--times", "times.json", "--json"),
        "link.json": tuple(["plan", "split", "--device-profile", "rtx3090", "--link", "link.json", "--json"]),
        "placement.json": ("build", "split", "-o", "o", "--placement", "placement.json"),
    }
    for file, argv in commands.items():
        for what, data in jsons.items():
            # A stream's number has no upper limit.
            ends = REFUSED_OR_DONE if file == "placement.json" and what == "a lane of stream 10^30" else REFUSED
            uses = ("split", file.removesuffix(".json"))
            yield Case("hostile JSON", f"{file}: {what}", argv, uses, writes(file, data), ("o",), ends=ends)


def _lanes(stream: bytes) -> bytes:
    return b'{"stream1": "cpu/' + stream + b'", "stream2": "cpu/0", "stream3": "cpu/0", "join": "cpu/0"}'
