"""What docs/serve-bench.md says of report.json is what the schema says, and what it refers to is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from parnet_deploy.artifacts.report import REPORT_SCHEMA_VERSION, Report

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "serve-bench.md").read_text(encoding="utf-8")
_SECTION = re.compile(r"^### (\w+)\n\n\| field \| meaning \|\n\| --- \| --- \|\n((?:\|.*\n)+)", re.MULTILINE)


def documented_fields() -> dict[str, list[str]]:
    """Return the fields of each model that the document has a table of."""
    return {
        name: [field for row in rows.splitlines() for field in re.findall(r"`(\w+)`", row.split("|")[1])]
        for name, rows in _SECTION.findall(TEXT)
    }


def models_within(annotation: Any) -> set[type[BaseModel]]:
    """Return every model that an annotation holds, with the models of its fields."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = [field.annotation for field in annotation.model_fields.values()]
        return {annotation}.union(*map(models_within, fields))
    return set().union(*map(models_within, get_args(annotation)))


MODELS = {model.__name__: model for model in models_within(Report)}


def test_every_model_has_its_table() -> None:
    assert sorted(documented_fields()) == sorted(MODELS)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_field_is_documented_once_and_no_other(name: str) -> None:
    assert sorted(documented_fields()[name]) == sorted(MODELS[name].model_fields)


def test_the_version_is_named() -> None:
    assert f"Schema version {REPORT_SCHEMA_VERSION}." in TEXT


def test_what_is_referred_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets
    for target in targets:
        assert (DOCS / target).is_file(), target


def test_the_screenshot_is_small() -> None:
    assert (DOCS / "images" / "serve-bench.png").stat().st_size < 300_000
