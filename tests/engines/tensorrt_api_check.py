"""Check every use of TensorRT in source files against bindings: run as a script, with the bindings importable.

    python tensorrt_api_check.py MODULE FILE...

What a variable holds is known by its name, what a call returns by its signature. Each attribute must exist, each
call must fit a signature, each assignment must be to a property that can be set. Prints JSON: what was checked, and
what does not fit.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timing_cache": "ITimingCache",
    "layer": "ILayer",
    "tensor": "ITensor",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "runtime_cache": "IRuntimeCache",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
}
_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w+)\((.*)\) -> ([\w.]+)", re.MULTILINE)


def split_parameters(text: str) -> list[str]:
    """Split at commas that are not inside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += character in "[(" or -(character in "])")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


class Checker(ast.NodeVisitor):
    """Walk one file."""

    def __init__(self, trt: Any) -> None:
        self.trt = trt
        self.checked: set[str] = set()
        self.problems: set[str] = set()

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Attribute | ast.Call):
            self.resolve(node)
        for child in ast.iter_child_nodes(node):
            self.visit(child)

    def resolve(self, node: ast.AST) -> Any:
        """Return the object that an expression stands for, a class for its instances; None if it is not TensorRT's."""
        if isinstance(node, ast.Name):
            if node.id == "trt":
                return self.trt
            return getattr(self.trt, VARIABLES.get(node.id, ""), None)
        if isinstance(node, ast.Attribute):
            return self.resolve_attribute(node)
        return self.resolve_call(node) if isinstance(node, ast.Call) else None

    def resolve_attribute(self, node: ast.Attribute) -> Any:
        if node.attr == "module":  # TensorRT.module is the package
            return self.trt
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return getattr(self.trt, VARIABLES.get(node.attr.removeprefix("_"), ""), None)
        owner = self.resolve(node.value)
        if owner is None or not str(getattr(owner, "__module__", owner)).replace("<module '", "").startswith(
            "tensorrt"
        ):
            return None
        name = f"{getattr(owner, '__name__', owner)}.{node.attr}".removeprefix(f"{self.trt.__name__}.")
        self.checked.add(name)
        found = getattr(owner, node.attr, None)
        if not hasattr(owner, node.attr):
            self.problems.add(f"{name} is missing")
        elif isinstance(node.ctx, ast.Store) and getattr(found, "fset", None) is None:
            self.problems.add(f"{name} cannot be set")
        if isinstance(found, property):
            return self.returned(found.fget.__doc__ or "")
        return found

    def resolve_call(self, node: ast.Call) -> Any:
        target = self.resolve(node.func)
        if target is None or not isinstance(node.func, ast.Attribute):
            return None
        if isinstance(target, type):
            name, text, made = node.func.attr, target.__init__.__doc__ or "", target
        else:
            name, text = node.func.attr, getattr(target, "__doc__", None) or ""
            made = self.returned(text)
        is_method_of_class = node.func.attr == "__init__"
        given = len(node.args) - is_method_of_class
        keywords = {keyword.arg for keyword in node.keywords}
        signatures = [split_parameters(found[1]) for found in _SIGNATURE.findall(text)]
        self.checked.add(f"{name}({given})")
        if not any(self.fits(parameters, given, keywords) for parameters in signatures):
            self.problems.add(f"{name} does not take {given} arguments and {sorted(map(str, keywords))}")
        return made

    @staticmethod
    def fits(parameters: list[str], given: int, keywords: set[str | None]) -> bool:
        own = [parameter for parameter in parameters if not parameter.startswith("self")]
        names = {parameter.split(":")[0].strip() for parameter in own[given:]}
        required = [parameter for parameter in own[given:] if "=" not in parameter]
        return (
            given <= len(own)
            and keywords <= names
            and all(parameter.split(":")[0].strip() in keywords for parameter in required)
        )

    def returned(self, text: str) -> Any:
        found = re.search(r"-> ([\w.]+)", text)
        return getattr(self.trt, found[1].rsplit(".", 1)[-1], None) if found else None


def main() -> None:
    checker = Checker(importlib.import_module(sys.argv[1]))
    for path in sys.argv[2:]:
        checker.visit(ast.parse(Path(path).read_text()))
    sys.stdout.write(json.dumps({"checked": sorted(checker.checked), "problems": sorted(checker.problems)}))


if __name__ == "__main__":
    main()
