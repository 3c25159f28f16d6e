"""What the documentation takes from the code is current, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.docs import generated
from tools.fusion_pictures import IMAGES, PICTURES, main

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", ["cli.md", "artefacts.md"])
def test_page_is_current(page: str) -> None:
    (path,) = (path for path in generated() if path.name == page)
    assert path.read_text() == generated()[path], "run: make docs"


def test_pictures_are_current(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.fusion_pictures.IMAGES", tmp_path)
    main()
    for name in PICTURES:
        drawn, kept = (folder / f"{name}.svg" for folder in (tmp_path, IMAGES))
        assert drawn.read_text() == kept.read_text(), "run: make docs"
        assert kept.stat().st_size < 100_000


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        linked = page if not file else (page.parent / file)
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
