"""Write the tables of docs/artefacts.md: every field of every artefact, from its schema and the schema's docstring."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

from pydantic import BaseModel

from parnet_deploy.artifacts import golden, measurements, report, schemas, verification

BEGIN, END = "<!-- written by `make docs` from the schemas -->", "<!-- end -->"

MODULES: tuple[tuple[str, ModuleType], ...] = (
    ("Checkpoint, bundle and plan", schemas),
    ("Report of serve-bench", report),
    ("Measurements in it", measurements),
    ("Report of verify", verification),
    ("Golden file", golden),
)


def artefact_tables() -> str:
    """Return a section for each module of schemas."""
    return "\n".join(f"### {title}\n\n{_module(module)}" for title, module in MODULES)


def with_tables(page: str) -> str:
    """Return a page with what lies between its two marks replaced."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{artefact_tables()}\n{END}{rest.split(END)[1]}"


def _module(module: ModuleType) -> str:
    made = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, BaseModel)
        and value.__module__ == module.__name__
        and value.model_fields
    ]
    return "\n".join(_schema(model) for model in made)


def _schema(model: type[BaseModel]) -> str:
    told = re.sub(r"\s+", " ", inspect.getdoc(model) or "").strip()
    rows = ["| field | type |", "| --- | --- |"]
    fields = model.model_json_schema()["properties"]
    for name, described in fields.items():
        rows.append(f"| `{name}` | {_type(described).replace('|', chr(92) + '|')} |")
    return f"**{model.__name__}.** {told}\n\n" + "\n".join(rows) + "\n"


def _type(described: dict) -> str:  # type: ignore[type-arg]
    """Tell a JSON schema in words."""
    if "$ref" in described:
        return described["$ref"].rsplit("/", 1)[1]
    if "const" in described:
        return f"`{described['const']}`"
    if "enum" in described:
        return " or ".join(f"`{value}`" for value in described["enum"])
    for kind in ("anyOf", "oneOf"):
        if kind in described:
            return " or ".join(_type(one) for one in described[kind])
    if described.get("type") == "array":
        if "prefixItems" in described:
            return f"[{', '.join(_type(one) for one in described['prefixItems'])}]"
        return f"list of {_type(described.get('items', {}))}"
    if described.get("type") == "object":
        values = described.get("additionalProperties")
        return f"map of {_type(values) if isinstance(values, dict) else 'any'}"
    return str(described.get("type", "any"))
