"""Command lines that ask for what cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz.case import REFUSED_OR_DONE, Case
from tests.fuzz.originals import Originals

_NUMBERS = ("0", "-1", "1e3", "nan", "inf", "", " ", "9" * 30, "0x10", "1_000", "٣", "1.5", "--help=no", "\n")
# Options that take a number, of commands that are quick to refuse; and those that some of the numbers are right for.
_OPTIONS: tuple[tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]], ...] = (
    (("init", "parnet_nano", "-o", "o.safetensors"), (), "--resolution", ("1_000",)),
    (("init", "parnet_nano", "-o", "o.safetensors"), (), "--classes", ("1_000",)),
    (("init", "parnet_nano", "-o", "o.safetensors"), (), "--seed", ("0", "1_000")),
    (("export", "fused.safetensors", "-o", "o"), ("fused",), "--batch", ("1_000",)),
    (("export", "fused.safetensors", "-o", "o"), ("fused",), "--resolution", ("1_000",)),
    (("build", "whole", "-o", "o"), ("whole",), "--threads", ("1_000",)),
    (("build", "whole", "-o", "o"), ("whole",), "--devices", ()),
    (("run", "plan_whole", "photo.png"), ("plan_whole", "photo"), "--top", ("1_000",)),
    (("verify", "whole", "plan_whole"), ("whole", "plan_whole"), "--count", ("1_000",)),
    (("verify", "whole", "plan_whole"), ("whole", "plan_whole"), "--seed", ("0", "1_000")),
    (
        ("verify", "whole", "plan_whole"),
        ("whole", "plan_whole"),
        "--tolerance",
        ("0", "1e3", "1.5", "1_000"),
    ),
    (("plan", "split", "--device-profile", "rtx3090"), ("split",), "--devices", ()),
    (("plan", "split", "--device-profile", "rtx3090"), ("split",), "--streams", ()),
    (("plan", "split", "--device-profile", "rtx3090"), ("split",), "--top", ("1_000",)),
    (("serve-bench", "plan_whole"), ("plan_whole",), "--rounds", ("1_000",)),
    (("serve-bench", "plan_whole"), ("plan_whole",), "--pipelines", ("1_000",)),
    (("serve-bench", "plan_whole"), ("plan_whole",), "--duration", ("1e3", "1.5", "1_000")),
    (("serve-bench", "plan_whole"), ("plan_whole",), "--min-queries", ("1_000",)),
    (("serve-bench", "plan_whole", "--scenario", "server"), ("plan_whole",), "--target-qps", ("1e3", "1.5", "1_000")),
    (("tune", "whole", "-o", "o"), ("whole",), "--budget", ("1e3", "1.5", "1_000")),
    (("tune", "whole", "-o", "o"), ("whole",), "--max-memory", ("1e3", "1.5", "1_000")),
    (("train", "--data", "labelled", "-o", "o.safetensors"), ("labelled",), "--epochs", ("1_000",)),
    (
        ("train", "--data", "labelled", "-o", "o.safetensors", "--epochs", "1"),
        ("labelled",),
        "--lr",
        ("0", "1e3", "1.5", "1_000"),
    ),
)
# Right, but it would take long; nothing is learnt from it.
_LONG = ("1_000",)
_LONG_OPTIONS = ("--duration", "--target-qps", "--budget", "--max-memory")
_WORDS = (
    "",
    " ",
    "-",
    "--",
    "\n",
    "x" * 5000,
    "[red]",
    "../..",
    "/",
    "~",
    "$(touch PWNED)",
    "`touch PWNED`",
    ";",
    "\udcff",
    "🦆",
    "%s",
)
_PLACES: tuple[tuple[str, ...], ...] = (
    ("{}",),
    ("inspect", "{}"),
    ("fuse", "{}", "-o", "o.safetensors"),
    ("fuse", "trained.safetensors", "-o", "{}"),
    ("import", "{}", "-o", "o.safetensors"),
    ("init", "{}", "-o", "o.safetensors"),
    ("export", "fused.safetensors", "-o", "o", "--partition", "{}"),
    ("export", "fused.safetensors", "-o", "o", "--dynamic-batch", "{}"),
    ("build", "whole", "-o", "o", "--backend", "{}"),
    ("build", "{}", "-o", "o"),
    ("run", "plan_whole", "{}"),
    ("run", "{}", "photo.png"),
    ("verify", "whole", "{}"),
    ("verify", "plan_whole", "--golden", "{}"),
    ("evaluate", "plan_whole", "{}"),
    ("plan", "split", "--link", "{}"),
    ("plan", "split", "--device-profile", "{}"),
    ("train", "--data", "{}", "-o", "o.safetensors"),
    ("serve-bench", "{}"),
)


def cases(_originals: Originals) -> Iterator[Case]:
    """Yield numbers, words and sizes that no command can take."""
    for argv, uses, option, right in _OPTIONS:
        for number in _NUMBERS:
            if number in right and (number in _LONG or option in _LONG_OPTIONS):
                continue
            ends = REFUSED_OR_DONE | {"failed"} if number in right else frozenset({"refused"})
            yield Case(
                "arguments",
                f"{argv[0]} {option} {number[:20]!r}",
                (*argv, option, number),
                uses,
                outputs=("o", "o.safetensors", "o.json", "o.run"),
                leaves=("o.run",),
                ends=ends,
            )
    for place in _PLACES:
        uses = ("trained", "fused", "whole", "split", "plan_whole", "photo")
        for word in _WORDS:
            # A slash alone is a folder of everybody's images.
            if word in ("/", "~", "../..", "") and place[0] in ("run", "evaluate", "train"):
                continue
            argv = tuple(word if part == "{}" else part for part in place)
            yield Case("arguments", f"{' '.join(place)} with {word[:20]!r}", argv, uses)
    yield from _sizes()


def _sizes() -> Iterator[Case]:
    for size in (1, 2, 3, 5, 7, 15, 17, 30, 31, 33, 34, 63, 100_001):
        for argv, uses in (
            (("export", "fused.safetensors", "-o", "o"), ("fused",)),
            (("init", "parnet_nano", "-o", "o.safetensors"), ()),
        ):
            yield Case("wrong size", f"{argv[0]} at {size} px", (*argv, "--resolution", str(size)), uses)
    for batches in (
        "0:1:2",
        "3:2:1",
        "1:1",
        "1:2:3:4",
        "a:b:c",
        "1:2:",
        "::",
        "-1:2:3",
        "1.5:2:3",
        "1:2:" + "9" * 5000,
    ):
        yield Case(
            "wrong size",
            f"export at batches {batches[:20]}",
            ("export", "fused.safetensors", "-o", "o", "--dynamic-batch", batches),
            ("fused",),
        )
