"""ONNX files that read other files, ask for all memory or are none; their hashes are right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.fuzz.case import REFUSED_OR_DONE, Case, End
from tests.fuzz.kinds.forgery import reseal, with_graph, write
from tests.fuzz.originals import Originals


def _external(location: str, *, write_there: bool = True, offset: str = "0") -> Callable[[Any, Path], None]:
    def change(model: Any, folder: Path) -> None:
        from onnx import TensorProto

        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        data = tensor.raw_data
        target = folder / "whole" / location if not location.startswith("/") else Path(location)
        if location == "link.bin":
            (folder / "secret.bin").write_bytes(data)
            for place in ("whole", "plan_whole"):
                if (folder / place).exists():
                    (folder / place / location).symlink_to("../secret.bin")
        elif write_there and not location.startswith("/"):
            for place in ("whole", "plan_whole"):
                if (folder / place).exists():
                    target = folder / place / location
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", str(len(data)))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return change


def _bomb(model: Any, _folder: Path) -> None:
    """Let the graph ask for 2^44 bytes before it answers."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([2**42], np.int64), "bomb/shape"))
    made = helper.make_node("ConstantOfShape", ["bomb/shape"], ["bomb"])
    total = helper.make_node("ReduceSum", ["bomb"], ["bomb/sum"], keepdims=0)
    last = graph.node[-1]
    output = last.output[0]
    last.output[0] = "before"
    graph.node.extend([made, total, helper.make_node("Add", ["before", "bomb/sum"], [output])])


def _custom_op(model: Any, _folder: Path) -> None:
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.evil", "Run"


def _cycle(model: Any, _folder: Path) -> None:
    model.graph.node[0].input[0] = model.graph.node[-1].output[0]


def _rename_output(model: Any, _folder: Path) -> None:
    model.graph.output[0].name = "elsewhere"


def _opset(model: Any, _folder: Path) -> None:
    model.opset_import[0].version = 9999


def _no_graph(model: Any, _folder: Path) -> None:
    model.ClearField("graph")


def _wrong_shape(model: Any, _folder: Path) -> None:
    model.graph.initializer[0].dims[0] = 2**40


_GRAPHS: dict[str, Callable[[Any, Path], None]] = {
    "weights in ../secret.bin": _external("../secret.bin"),
    "weights in /etc/passwd": _external("/etc/passwd", write_there=False),
    "weights behind a link out of the folder": _external("link.bin"),
    "weights in a file without a hash": _external("beside.bin"),
    "weights in a sub-folder": _external("sub/beside.bin"),
    "weights in a missing file": _external("nowhere.bin", write_there=False),
    "weights at an offset beyond the file": _external("beside.bin", offset=str(2**40)),
    "weights in the manifest": _external("bundle.json", write_there=False),
    "a constant of 16 TiB": _bomb,
    "an operator that nobody knows": _custom_op,
    "a cycle": _cycle,
    "another output": _rename_output,
    "an operator set of the future": _opset,
    "no graph": _no_graph,
    "a shape that its bytes do not fill": _wrong_shape,
}


def cases(_originals: Originals) -> Iterator[Case]:
    """Yield every graph, for every command that runs one."""
    for what, change in _GRAPHS.items():
        for uses, target, argv, outputs in _GRAPH_READERS:
            # What asks for all memory when it is run may be built.
            ends = REFUSED_OR_DONE if change is _bomb and argv[0] == "build" else frozenset[End]({"refused"})
            yield Case(
                "hostile ONNX",
                f"{what}, {argv[0]} {target}",
                argv,
                uses,
                with_graph(change, target),
                outputs,
                ends=ends,
            )
    for what, data in {
        "an empty file": b"",
        "zeros": bytes(4096),
        "a length of 2^63": b"\x3a" + b"\xff" * 8 + b"\x7f",
        "groups in groups": b"\x0b" * 10_000,
        "text": b"ir_version: 8",
    }.items():
        for uses, target, argv, outputs in _GRAPH_READERS:

            def prepare(folder: Path, data: bytes = data, target: str = target) -> None:
                write(folder, f"{target}/whole.onnx", data)
                reseal(folder / target, "whole.onnx")

            yield Case("hostile ONNX", f"{what}, {argv[0]} {target}", argv, uses, prepare, outputs)


_GRAPH_READERS: tuple[tuple[tuple[str, ...], str, tuple[str, ...], tuple[str, ...]], ...] = (
    (("whole",), "whole", ("build", "whole", "-o", "o"), ("o",)),
    (("whole", "labelled"), "whole", ("evaluate", "whole", "labelled"), ()),
    (("whole", "plan_whole"), "whole", ("verify", "plan_whole", "whole", "--per-layer", "--json"), ()),
    (("plan_whole", "photo"), "plan_whole", ("run", "plan_whole", "photo.png", "--json"), ()),
)
