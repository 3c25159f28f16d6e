"""Every error says how it is mended, but for those listed here with the reason why they cannot."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import parnet_deploy
from parnet_deploy import errors

PACKAGE = Path(parnet_deploy.__file__).parent
FAMILY = {
    name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.ParNetError)
}

_OURS = "only a fault of our own code or of the library can cause it: a remedy would be a guess"
_ADDED = "`load_graph` raises it again, with the file and the remedy"
_GIVEN_UP = "`tune` notes it as what became of a candidate, and goes on with the others"

# By module and the beginning of the message's source.
WITHOUT_REMEDY = {
    ("bench/infer.py", "an inference failed"): _OURS,
    ("bench/loadgen_log.py", "LoadGen wrote no result"): _OURS,
    ("bench/loadgen_log.py", "LoadGen's trace holds no sample"): _OURS,
    ("bench/loadgen_log.py", "LoadGen states a {name} latency"): _OURS,
    ("bench/loadgen_log.py", "LoadGen states {stated} samples"): _OURS,
    ("cli/serve_bench.py", "slower than the baseline"): "a finding, of which the cause is not known",
    ("engines/base.py", "stage {spec.name!r} is bound to other tensors"): _OURS,
    ("engines/base.py", "stage {spec.name!r} is bound to batch sizes"): _OURS,
    ("engines/base.py", "stage {spec.name!r}: the array for"): _OURS,
    ("engines/ncnn.py", "ncnn cannot {action}"): _OURS,
    ("engines/onnx_to_torch.py", "error.what"): _ADDED,
    ("engines/onnx_to_torch.py", "no ONNX model that can be read"): _ADDED,
    ("engines/onnx_to_torch.py", "weights outside the file"): _ADDED,
    ("engines/onnx_to_torch.py", "operators of {opsets}"): _ADDED,
    ("engines/onnx_to_torch.py", "weight {tensor.name!r} cannot be read"): _ADDED,
    ("engines/onnx_to_torch.py", "tensor {value.name!r} is neither"): _ADDED,
    ("engines/onnx_to_torch.py", "tensor {name!r} is no float32"): _ADDED,
    ("engines/onnx_to_torch.py", "node {self._proto.name!r}"): _ADDED,
    ("engines/torch_run.py", "it has tensors"): _ADDED,
    ("engines/torch_run.py", "{name!r} is {dtype}"): _ADDED,
    ("engines/torch_run.py", "torch cannot {action}"): _OURS,
    ("export/cleanup.py", "onnxsim could not verify"): _OURS,
    ("export/graph.py", "torch.onnx failed"): _OURS,
    ("export/graph.py", "torch.onnx returned no program"): _OURS,
    ("graphs/join.py", "the graph has a tensor without a name"): _OURS,
    ("graphs/operations.py", "node {node.name!r} has no known shapes"): _OURS,
    ("graphs/operations.py", "an axis of unknown length"): _OURS,
    ("graphs/run.py", "ONNX Runtime refuses the exported graph"): _OURS,
    ("graphs/run.py", "ONNX Runtime cannot run the exported graph"): _OURS,
    ("graphs/stages.py", "stage {stage.name!r} is no sub-graph"): _OURS,
    ("graphs/stages.py", "onnx.checker: "): _OURS,
    ("graphs/stages.py", "tensor {value.name!r} has no known shape"): _OURS,
    ("graphs/stages.py", "tensor {value.name!r} holds integers"): _OURS,
    ("tuning/measure.py", "no answer in"): _GIVEN_UP,
    ("tuning/measure.py", "its process ended with status"): _GIVEN_UP,
    ("tuning/workshop.py", "str(error)"): _GIVEN_UP,
    ("weights/download.py", "the server sends the file coded"): "only who keeps the server can change that",
}


def _without_remedy(source: str) -> Iterator[str]:
    """Yield the message's source of every error that is made without a remedy."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = [keyword.value for keyword in node.keywords if keyword.arg in ("remedy", None)]
        if name in FAMILY and all(isinstance(value, ast.Constant) and not value.value for value in given):
            yield ast.unparse(node.args[0]).removeprefix("f").strip("'\"")


def test_finds_errors_without_a_remedy() -> None:
    source = """
raise EngineError(f"no {name}", where=path)
raise errors.DataError("empty", remedy="")
raise DataError("none", remedy=None)
raise DataError("mended", remedy="mend it")
raise ValueError("another family")
"""
    assert list(_without_remedy(source)) == ["no {name}", "empty", "none"]


def test_every_error_names_its_remedy() -> None:
    found = [
        (path.relative_to(PACKAGE).as_posix(), message)
        for path in sorted(PACKAGE.rglob("*.py"))
        for message in _without_remedy(path.read_text(encoding="utf-8"))
    ]
    entries = Counter(
        next(
            ((where, what) for where, what in WITHOUT_REMEDY if where == module and message.startswith(what)),
            (module, message),
        )
        for module, message in found
    )
    # Each entry stands for one error, so that a second of the same words is seen too, and one that is gone.
    assert entries == Counter(dict.fromkeys(WITHOUT_REMEDY, 1))
